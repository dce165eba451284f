"""The fake server as a program: ``python -m tests.lab.apiserver --port 6443 --tls-dir DIR --control SOCKET``."""

import argparse
import asyncio
import signal
from pathlib import Path

from tests.lab.apiserver.engine import Engine
from tests.lab.apiserver.tls import certificates


async def _serve(options: argparse.Namespace) -> None:
    names = ("localhost", "127.0.0.1", *options.name)
    files = certificates(options.tls_dir, names) if options.tls_dir else None
    engine = Engine(options.host, options.port, files)
    if options.token:
        engine.set_tokens(options.token)
    if options.control:
        await engine.listen_control(options.control)
    await engine.start()
    print(f"listening on port {engine.port}", flush=True)
    end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    await end.wait()
    await engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="apiserver")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=6443)
    parser.add_argument("--tls-dir", type=Path, help="certificates, made where there are none; plain HTTP without")
    parser.add_argument("--name", action="append", default=[], help="further names and addresses in the certificate")
    parser.add_argument("--token", action="append", default=[], help="valid tokens; everybody may come in without")
    parser.add_argument("--control", type=Path, help="Unix socket that serves /_lab/ even while stopped")
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
