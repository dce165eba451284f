"""QUIC in a host: ``python -m tests.lab.quic serve PORT DIRECTORY`` and ``... ask ADDRESS PORT BYTES``.

The server sends back what comes over a stream, with the certificate of `tls.certificates` in the directory. The client
sends so many random bytes, reads them back, and ends with exit code 1 where they differ or do not come.
"""

import asyncio
import os
import ssl
import sys
from pathlib import Path

from aioquic.asyncio.client import connect
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration

from tests.lab.apiserver.tls import certificates

_ALPN = ["echo"]


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
    writer.write_eof()


async def serve_echo(port: int, directory: Path) -> None:
    """Serve both families until cancelled; says ``listening`` on standard output once it does."""
    files = certificates(directory, ("localhost",))
    configuration = QuicConfiguration(is_client=False, alpn_protocols=_ALPN)
    configuration.load_cert_chain(files.server, files.server)  # one file has both
    async with asyncio.TaskGroup() as echoes:

        def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            echoes.create_task(_echo(reader, writer), name="echo a stream")

        await serve("::", port, configuration=configuration, stream_handler=answer)
        print("listening", flush=True)
        await asyncio.Event().wait()


async def ask(address: str, port: int, size: int) -> bool:
    """Whether `size` random bytes come back as they were, over one stream of one connection."""
    configuration = QuicConfiguration(alpn_protocols=_ALPN, verify_mode=ssl.CERT_NONE)
    payload = os.urandom(size)
    async with connect(address, port, configuration=configuration) as protocol:
        reader, writer = await protocol.create_stream()
        writer.write(payload)
        writer.write_eof()
        return await reader.read() == payload


def main() -> None:
    match sys.argv[1:]:
        case ["serve", port, directory]:
            asyncio.run(serve_echo(int(port), Path(directory)))
        case ["ask", address, port, size]:
            sys.exit(0 if asyncio.run(ask(address, int(port), int(size))) else 1)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
