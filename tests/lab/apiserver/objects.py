"""The manifests' builders, writing to an API server."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.lab.apiserver.hosted import HostedApiServer
from tests.lab.manifests import Manifests


class ApiObjects(Manifests):
    """Every builder puts its object into `server`; the path that it returns only stands for it."""

    def __init__(self, directory: Path, server: HostedApiServer) -> None:
        super().__init__(directory)
        self.server = server
        self._written: dict[Path, list[Mapping[str, Any]]] = {}

    @property
    def flags(self) -> tuple[str, ...]:
        return ("--kubeconfig", str(self.server.kubeconfig(self.directory / "kubeconfig")))

    def write(self, name: str, *documents: Mapping[str, Any]) -> Path:
        path = self.directory / name
        self._written[path] = list(documents)
        self.server.put(*documents)
        return path

    def write_text(self, name: str, text: str) -> Path:
        raise AssertionError(f"{name}: an API server takes objects, not text such as {text[:20]!r}")

    def remove(self, path: Path) -> None:
        for document in self._written.pop(path):
            metadata = document["metadata"]
            self.server.delete(document["kind"], metadata.get("namespace", ""), metadata["name"])
