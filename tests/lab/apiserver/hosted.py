"""The fake server as a program in a lab host, told what to do over a Unix socket."""

import http.client
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from tests.lab.apiserver.interface import ApiServer
from tests.lab.apiserver.tls import certificates
from userproxy.demo.hosts import Host
from userproxy.demo.programs import Program


class HostedApiServer(ApiServer):
    """An API server with TLS in `host`, at the host's address. `directory` keeps its certificates and socket.

    ``program`` is the process, for tests that stop it with signals.
    """

    def __init__(self, host: Host, directory: Path, port: int = 6443) -> None:
        super().__init__()
        address = host.address or "127.0.0.1"
        self.files = certificates(directory, ("localhost", "127.0.0.1", *([host.address] if host.address else [])))
        self.url = f"https://{address}:{port}"
        self._socket = directory / "control"
        self._socket.unlink(missing_ok=True)
        flags = ["--port", str(port), "--tls-dir", str(directory), "--control", str(self._socket)]
        # A token may begin with a hyphen, so it is one argument with its flag.
        command = [sys.executable, "-m", "tests.lab.apiserver", *flags, f"--token={self.token}"]
        self.program = Program(host, command)
        try:
            self.program.wait_line("listening on port")
        except BaseException:
            self.program.close()
            raise

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        connection = _UnixConnection(self._socket)
        try:
            connection.request("POST", f"/_lab/{method}", msgspec.json.encode([arguments, options]))
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise RuntimeError(body.decode())
        return msgspec.json.decode(body)

    def put(self, *documents: Mapping[str, Any]) -> None:
        for start in range(0, len(documents), 1000):
            self.call("put", *documents[start : start + 1000])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.program.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30.0)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
