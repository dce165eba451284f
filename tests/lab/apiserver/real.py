"""A real kube-apiserver and etcd behind the interface that the fake server has, as far as a real one can have it.

The binaries come from envtest's variables. Faults other than `stop`, `start` and `compact` are the fake server's alone.
"""

import json
import os
import secrets
import socket
import ssl
import subprocess
import tempfile
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import HTTPError

from tests.lab.apiserver.kubeconfig import Auth, write_kubeconfig
from tests.lab.apiserver.resources import RESOURCES, Resource, resource_of
from tests.lab.apiserver.storage import Object
from userproxy.demo.waiting import eventually


def real_binaries() -> tuple[str, str] | None:
    """kube-apiserver and etcd, where TEST_ASSET_KUBE_APISERVER and TEST_ASSET_ETCD name them."""
    apiserver, etcd = os.environ.get("TEST_ASSET_KUBE_APISERVER"), os.environ.get("TEST_ASSET_ETCD")
    return (apiserver, etcd) if apiserver and etcd else None


class RealApiServer:
    """A kube-apiserver with an etcd of its own while the ``with`` block lasts; its one token may do everything."""

    def __init__(self, apiserver: str, etcd: str) -> None:
        self.token = secrets.token_urlsafe(24)
        self._apiserver, self._etcd = apiserver, etcd
        self._port, self._etcd_port, self._peer_port = _free_port(), _free_port(), _free_port()
        self.url = f"https://127.0.0.1:{self._port}"
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="real-apiserver-")))
            key = self._directory / "sa.key"
            subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
            (self._directory / "tokens").write_text(f"{self.token},admin,admin,system:masters\n")
            stack.callback(_end, self._start_etcd())
            stack.callback(self.stop)
            self.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def start(self) -> None:
        """Returns once it is ready. Raises DeadlineError after a minute."""
        here = self._directory
        self._server = _quiet(
            self._apiserver,
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            f"--secure-port={self._port}",
            "--bind-address=127.0.0.1",
            f"--cert-dir={here}",
            f"--token-auth-file={here / 'tokens'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://lab",
            f"--service-account-key-file={here / 'sa.key'}",
            f"--service-account-signing-key-file={here / 'sa.key'}",
        )
        eventually(lambda: self._ask("GET", "/readyz") is not None, 60.0, "the real API server to be ready")

    def stop(self) -> None:
        if self._server is not None:
            _end(self._server)
            self._server = None

    def put(self, *documents: Mapping[str, Any]) -> None:
        """Create objects or replace them."""
        for document in documents:
            resource, metadata = resource_of(document["kind"]), dict(document["metadata"])
            path = _path(resource, metadata.get("namespace") or "default")
            try:
                old = json.loads(self._ask("GET", f"{path}/{metadata['name']}"))
            except HTTPError:
                self._ask("POST", path, document)
                continue
            metadata["resourceVersion"] = old["metadata"]["resourceVersion"]
            self._ask("PUT", f"{path}/{metadata['name']}", {**document, "metadata": metadata})

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Raises HTTPError where there is none."""
        self._ask("DELETE", f"{_path(resource_of(kind), namespace)}/{name}")

    @property
    def objects(self) -> dict[tuple[str, str, str], Object]:
        """All objects by kind, namespace and name; the server has some of its own."""
        found: dict[tuple[str, str, str], Object] = {}
        for resource in RESOURCES:
            for item in json.loads(self._ask("GET", f"{resource.base}/{resource.plural}"))["items"]:
                metadata = item["metadata"]
                found[resource.kind, metadata.get("namespace", ""), metadata["name"]] = item
        return found

    def compact(self) -> None:
        """Forget all history, through etcd's own HTTP gateway."""
        answer = json.loads(self._ask_etcd("kv/range", {"key": "AA=="}))
        self._ask_etcd("kv/compaction", {"revision": answer["header"]["revision"], "physical": True})

    def kubeconfig(self, path: Path, auth: Auth = "token", context: str = "lab", *, current: str | None = None) -> Path:
        """As the fake server's, without verification: the server signs its certificate itself."""
        path = write_kubeconfig(path, self.url, None, self.token, auth, context, current)
        text = path.read_text()
        if auth != "insecure":
            server = f"server: {self.url}"
            path.write_text(text.replace(server, f"{server}\n    insecure-skip-tls-verify: true"))
        return path

    def _start_etcd(self) -> "subprocess.Popen[bytes]":
        client, peer = (f"http://127.0.0.1:{port}" for port in (self._etcd_port, self._peer_port))
        data = f"--data-dir={self._directory / 'etcd'}"
        listen = [f"--listen-client-urls={client}", f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}"]
        return _quiet(self._etcd, data, *listen)

    def _ask(self, method: str, path: str, body: object = None) -> bytes:
        context = ssl._create_unverified_context()
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, context=context, timeout=10) as answer:
            return bytes(answer.read())

    def _ask_etcd(self, method: str, body: object) -> bytes:
        url = f"http://127.0.0.1:{self._etcd_port}/v3/{method}"
        with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=10) as answer:
            return bytes(answer.read())


def _path(resource: Resource, namespace: str) -> str:
    scope = f"/namespaces/{namespace}" if resource.namespaced else ""
    return f"{resource.base}{scope}/{resource.plural}"


def _quiet(*argv: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    with suppress(subprocess.TimeoutExpired):
        child.wait(10)
    child.kill()
    child.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
