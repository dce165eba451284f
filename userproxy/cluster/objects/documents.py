"""One manifest document, as plain values in the shape of ``kubectl get -o yaml``, becomes objects of the model.

Defaults are the API server's, since a manifest has not been through one: namespace ``default``, protocol TCP, an
unnamed port where the name is null, ready and serving where a condition is null.
"""

import re
from collections.abc import Iterator
from typing import TypeVar

import msgspec
import structlog
from msgspec import Struct

from userproxy.cluster.objects import schema
from userproxy.cluster.objects.endpoints import decode_endpoints, decode_slice
from userproxy.cluster.objects.keys import ClusterObject, ObjectKey, identify
from userproxy.cluster.objects.node import decode_node
from userproxy.cluster.objects.service import decode_service
from userproxy.cluster.objects.validation import Checker, describe_type, show
from userproxy.errors import ObjectError

log = structlog.get_logger()

T = TypeVar("T")

_API_VERSIONS = {
    "Service": "v1",
    "Endpoints": "v1",
    "Node": "v1",
    "EndpointSlice": "discovery.k8s.io/v1",
}

_MISMATCH = re.compile(r"Expected `([a-z]+)[^`]*`(?:, got `[^`]+`)?(?: - at (`key` in )?`\$\.?(.*)`)?")
_STEP = re.compile(r"([^.\[\]]+)|\[([0-9]+)\]")
_NOUNS = {
    "int": "a whole number",
    "str": "text; put it in quotes",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
}


class Decoded(Struct, frozen=True):
    """The objects in one document, and one sentence for each part of them that was left out."""

    objects: tuple[ClusterObject, ...] = ()
    problems: tuple[str, ...] = ()


def expand(document: object, where: str) -> Iterator[tuple[object, str]]:
    """The items of a List (or ServiceList, ...), each with its place; any other document as it is.

    Raises ObjectError where ``items`` is no list.
    """
    kind = document.get("kind") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(kind, str) or not kind.endswith("List"):
        yield document, where
        return
    items = document.get("items")
    if items is not None and not isinstance(items, list):
        raise ObjectError(f"{where} ({kind}): items: {describe_type(items)} is not a list")
    typed = {} if kind == "List" else {"kind": kind[:-4], "apiVersion": document.get("apiVersion")}
    for number, item in enumerate(items or (), 1):
        yield {**typed, **item} if isinstance(item, dict) else item, f"{where} item {number}"


def decode(document: object, where: str, *, from_manifest: bool = True, key: ObjectKey | None = None) -> Decoded:
    """The objects in one document: none for a kind that is not read, several for Endpoints.

    Every sentence begins with `where`. `from_manifest` is what :class:`Checker` makes of it. `key` is what the document
    names, where that is known by now. Raises ObjectError naming the field and its value where the object cannot be
    used at all.
    """
    if not isinstance(document, dict):
        raise ObjectError(f"{where}: {describe_type(document)} is not a Kubernetes object")
    kind = document.get("kind")
    if not isinstance(kind, str) or not kind:
        raise ObjectError(f"{where}: kind: {'missing' if kind is None else f'{show(kind)} is not a kind'}")
    name = str(key or identify(document) or kind)
    checker = Checker(f"{where} ({name if name.isprintable() else show(name)})", from_manifest=from_manifest)
    if not _is_read(document, kind, checker):
        log.debug("skipping a kind that no proxy reads", v=2, where=where, kind=kind)
        return Decoded()
    objects = _decode_kind(kind, document, checker)
    return Decoded(objects, tuple(checker.problems))


def _is_read(document: dict[object, object], kind: str, checker: Checker) -> bool:
    """Whether the document is of a kind that is read. Another API group may have a kind of the same name."""
    if kind.endswith("List"):
        raise checker.error("kind", "a List inside a List is not read")
    wanted = _API_VERSIONS.get(kind)
    version = document.get("apiVersion")
    if wanted is None or version == wanted:
        return wanted is not None
    if version is None:
        raise checker.error("apiVersion", f"missing; it should be {wanted}")
    if not isinstance(version, str) or "/" not in version or version.startswith("discovery.k8s.io/"):
        raise checker.error("apiVersion", f"{show(version)} should be {wanted}")
    return False


def _decode_kind(kind: str, document: dict[object, object], checker: Checker) -> tuple[ClusterObject, ...]:
    match kind:
        case "Service":
            return (decode_service(_shaped(document, schema.RawService, checker), checker),)
        case "EndpointSlice":
            return decode_slice(_shaped(document, schema.RawEndpointSlice, checker), checker)
        case "Endpoints":
            return decode_endpoints(_shaped(document, schema.RawEndpoints, checker), checker)
        case _:
            return (decode_node(_shaped(document, schema.RawNode, checker), checker),)


def _shaped(document: dict[object, object], shape: type[T], checker: Checker) -> T:
    try:
        return msgspec.convert(document, shape)
    except UnicodeEncodeError:  # of msgspec, where it is about to say that such a text is not what it should be
        raise checker.error("object", "a text in it has half of a surrogate pair, which is no character") from None
    except msgspec.ValidationError as error:
        found = _MISMATCH.fullmatch(str(error))
        if found is None:
            raise checker.error("object", str(error)) from error
        noun, is_key, path = found.groups(default="")
        if is_key:
            raise checker.error(path or "object", "a key in it is not text; put it in quotes") from None
        value = _value_at(document, path)
        raise checker.error(path, f"{show(value)} is not {_NOUNS.get(noun, noun)}") from None


def _value_at(document: object, path: str) -> object:
    """The value at a path of msgspec's, such as ``spec.ports[0].port``. A label's key may contain dots itself."""
    while path and isinstance(document, dict | list):
        if isinstance(document, dict) and path in document:
            return document[path]
        step = _STEP.match(path)
        if step is None:
            break
        document = document[int(step[2])] if isinstance(document, list) else document.get(step[1])
        path = path[step.end() :].removeprefix(".")
    return document
