"""What runs in a Pod: ``python -m userproxy.demo.pods --name web-1 --port 8080``.

A small HTTP server that answers every request with its Pod's name and the client address that it sees,
``{"pod": "web-1", "client": "10.244.1.1:40312"}``. It keeps connections alive as HTTP/1.1 clients expect.
Request bodies are not read.
"""

import argparse
import asyncio
import json
from typing import cast


class Answering(asyncio.Protocol):
    """One connection: an answer for each blank line that ends a request's head."""

    def __init__(self, pod: str) -> None:
        self._pod = pod
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername") or ("", 0)  # None where the client has gone already
        body = json.dumps({"pod": self._pod, "client": f"{peer[0]}:{peer[1]}"}).encode() + b"\n"
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        self._answer = head + body

    def data_received(self, data: bytes) -> None:
        *requests, self._head = (self._head + data).split(b"\r\n\r\n")
        for request in requests:
            self._transport.write(self._answer)
            if b"connection: close" in request.lower():
                self._transport.close()


async def serve(pod: str, port: int) -> None:
    """Answer on `port` of every address until cancelled."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Answering(pod), "0.0.0.0", port, backlog=1024)
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer HTTP requests with a Pod's name.")
    parser.add_argument("--name", required=True, help="the Pod's name")
    parser.add_argument("--port", type=int, default=8080, help="TCP port to listen on (default: 8080)")
    options = parser.parse_args()
    asyncio.run(serve(options.name, options.port))


if __name__ == "__main__":
    main()
