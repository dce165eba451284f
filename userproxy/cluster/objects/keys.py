"""What makes two Kubernetes objects the same one. Pure."""

from typing import TypeAlias

from msgspec import Struct

from userproxy.model import EndpointSlice, Node, Service

ClusterObject: TypeAlias = Service | EndpointSlice | Node
"""An object that a source can deliver."""


class ObjectKey(Struct, frozen=True, order=True, gc=False):
    """What makes two objects the same one. ``namespace`` is empty for a Node."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


def object_key(item: ClusterObject) -> ObjectKey:
    namespace = "" if isinstance(item, Node) else item.namespace
    return ObjectKey(type(item).__name__, namespace, item.name)


def identify(document: object) -> ObjectKey | None:
    """What a document says it is, however wrong the rest of it; None where it does not even say that."""
    if not isinstance(document, dict):
        return None
    kind, metadata = document.get("kind"), document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(kind, str) or not isinstance(metadata, dict) or not isinstance(name, str):
        return None
    namespace = "" if kind == "Node" else metadata.get("namespace") or "default"
    return ObjectKey(kind, namespace, name) if isinstance(namespace, str) else None
