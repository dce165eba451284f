"""What runs in a Pod: ``python -m userproxy.demo.pods --name web-1 --port 8080``.

Over TCP, a small HTTP server that answers every request with its Pod's name and the client address that it sees,
``{"pod": "web-1", "client": "10.244.1.1:40312"}``. It keeps connections alive as HTTP/1.1 clients expect.
Request bodies are not read.

Over UDP on the same port, a datagram that begins with ``?`` is answered with the same object, a newline, and the
datagram; any other comes back as it is.
"""

import argparse
import asyncio
import json
import socket
from typing import Any, cast


class Answering(asyncio.Protocol):
    """One connection: an answer for each blank line that ends a request's head."""

    def __init__(self, pod: str) -> None:
        self._pod = pod
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        body = _introduction(self._pod, transport.get_extra_info("peername"))
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        self._answer = head + body

    def data_received(self, data: bytes) -> None:
        *requests, self._head = (self._head + data).split(b"\r\n\r\n")
        for request in requests:
            self._transport.write(self._answer)
            if b"connection: close" in request.lower():
                self._transport.close()


def answer_datagrams(pod: str, sock: socket.socket) -> None:
    """Answer all that have come. asyncio's own transports would not send an empty datagram."""
    while True:
        try:
            data, client, *_ = sock.recvfrom(1 << 16)
            sock.sendto(_introduction(pod, client) + data if data.startswith(b"?") else data, client)
        except BlockingIOError:
            return
        except OSError:
            continue  # an answer that cannot be sent concerns its client alone


def _introduction(pod: str, peer: tuple[Any, ...] | None) -> bytes:
    host, port = peer[:2] if peer else ("", 0)  # none where the client has gone already
    host = host.removeprefix("::ffff:")
    client = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return json.dumps({"pod": pod, "client": client}).encode() + b"\n"


def _bind(kind: socket.SocketKind, port: int) -> socket.socket:
    """A socket for both families where the kernel has both."""
    dual = socket.has_dualstack_ipv6()
    sock = socket.socket(socket.AF_INET6 if dual else socket.AF_INET, kind)
    if dual:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    if kind is socket.SOCK_STREAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("", port))
    sock.settimeout(0.0)
    return sock


async def serve(pod: str, port: int) -> None:
    """Answer on `port` of every address until cancelled."""
    loop = asyncio.get_running_loop()
    with _bind(socket.SOCK_DGRAM, port) as datagrams:
        loop.add_reader(datagrams, answer_datagrams, pod, datagrams)
        try:
            listener = _bind(socket.SOCK_STREAM, port)
            async with await loop.create_server(lambda: Answering(pod), sock=listener, backlog=1024) as server:
                await server.serve_forever()
        finally:
            loop.remove_reader(datagrams)


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer HTTP requests and datagrams with a Pod's name.")
    parser.add_argument("--name", required=True, help="the Pod's name")
    parser.add_argument("--port", type=int, default=8080, help="TCP and UDP port to answer on (default: 8080)")
    options = parser.parse_args()
    asyncio.run(serve(options.name, options.port))


if __name__ == "__main__":
    main()
