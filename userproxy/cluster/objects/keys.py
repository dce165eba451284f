"""The identity of an object: kind, namespace and name. Pure."""

from typing import TypeAlias

from msgspec import Struct

from userproxy.model import EndpointSlice, Node, Service

ClusterObject: TypeAlias = Service | EndpointSlice | Node
"""An object that a source can deliver."""


class ObjectKey(Struct, frozen=True, order=True, gc=False):
    """Two objects with equal keys are versions of the same object. ``namespace`` is empty for a Node."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


def object_key(item: ClusterObject) -> ObjectKey:
    """The key of an object of the model."""
    namespace = "" if isinstance(item, Node) else item.namespace
    return ObjectKey(type(item).__name__, namespace, item.name)


def key_of(kind: type[ClusterObject], namespace: str, name: str) -> ObjectKey:
    """The key of an object of which this is said; what has no namespace and needs one is in ``default``."""
    return ObjectKey(kind.__name__, "" if kind is Node else namespace or "default", name)


def identify(document: object) -> ObjectKey | None:
    """The key that a document names, even if the rest of it is wrong; None where it names none."""
    if not isinstance(document, dict):
        return None
    kind, metadata = document.get("kind"), document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(kind, str) or not isinstance(metadata, dict) or not isinstance(name, str):
        return None
    namespace = "" if kind == "Node" else metadata.get("namespace") or "default"
    return ObjectKey(kind, namespace, name) if isinstance(namespace, str) else None
