"""Objects of the API as bytes become objects of the model; what is wrong with them is logged and never raised.

A good object is decoded straight into its shape. A bad one is decoded once more as plain values, by the code that reads
manifests, which names the field and its value.
"""

from collections.abc import Callable, KeysView
from functools import partial
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from userproxy.cluster.objects.documents import decode
from userproxy.cluster.objects.endpoints import decode_slice
from userproxy.cluster.objects.keys import ClusterObject, ObjectKey, identify, object_key
from userproxy.cluster.objects.node import decode_node
from userproxy.cluster.objects.resources import Resource
from userproxy.cluster.objects.schema import UNREADABLE
from userproxy.cluster.objects.service import decode_service
from userproxy.cluster.objects.validation import Checker
from userproxy.errors import ObjectError
from userproxy.model import EndpointSlice, Node, Service

log = structlog.get_logger()

_WHERE = "API"

Decode = Callable[[Any, Checker], tuple[ClusterObject, ...]]


class Reading(Struct, frozen=True, gc=False):
    """The result of reading one object.

    `key` is None where not even the name could be read. `item` is None where there is nothing to serve. Unless `good`,
    the last good version of the object stays.
    """

    key: ObjectKey | None = None
    item: ClusterObject | None = None
    good: bool = False


class ObjectReader:
    """Reads the objects of one resource and keeps what is wrong with them."""

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        self._kind = resource.kind.__name__
        self._decoder = msgspec.json.Decoder(resource.shape)
        self._decode = _decoder_of(resource.kind)
        self._problems: dict[ObjectKey | None, tuple[str, ...]] = {}

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence for each thing that is wrong with objects that exist now."""
        return tuple(sentence for sentences in self._problems.values() for sentence in sentences)

    def read(self, data: bytes | msgspec.Raw) -> Reading:
        """The object in `data`. What is wrong with it is logged the first time only."""
        try:
            shaped = self._decoder.decode(data)
        except UNREADABLE as error:
            return self._read_bad(data, error)
        return self.read_shaped(shaped, lambda: data)

    def read_shaped(self, shaped: Any, data: Callable[[], bytes | msgspec.Raw]) -> Reading:
        """The object that has been decoded into the shape of its resource; `data` gives what from."""
        try:
            checker = Checker(partial(self._heading, shaped.metadata), from_manifest=False)  # nearly never said
            objects = self._decode(shaped, checker)
        except (ObjectError, *UNREADABLE) as error:
            return self._read_bad(data(), error)
        if not objects:
            key = self._key(shaped.metadata.namespace, shaped.metadata.name)
            self._note(key, checker.problems)
            log.debug("No proxy serves this", v=3, object=str(key))
            return Reading(key, good=True)
        key = object_key(objects[0])
        if checker.problems or self._problems:
            self._note(key, checker.problems)
        return Reading(key, objects[0], good=True)

    @property
    def complained_of(self) -> KeysView[ObjectKey | None]:
        """The keys of the objects that have problems: a live view."""
        return self._problems.keys()

    def forget(self, key: ObjectKey) -> None:
        """Drop the problems of an object that was deleted."""
        self._problems.pop(key, None)

    def forget_others(self, keys: set[ObjectKey]) -> None:
        """Drop the problems of all objects but these."""
        self._problems = {key: sentences for key, sentences in self._problems.items() if key in keys}

    def _heading(self, metadata: Any) -> str:
        if metadata is None:
            return f"{_WHERE} ({self._kind})"
        return f"{_WHERE} ({self._kind} {metadata.namespace}/{metadata.name})"

    def _key(self, namespace: str | None, name: str) -> ObjectKey:
        return ObjectKey(self._kind, namespace or "default", name)

    def _read_bad(self, data: bytes | msgspec.Raw, error: Exception) -> Reading:
        document: object = None
        sentence = f"{_WHERE} ({self._kind}): cannot be read: {error}"
        try:
            document = msgspec.json.decode(data)
            if isinstance(document, dict):
                # The items of a list do not say what they are.
                document = {**document, "kind": self._kind, "apiVersion": self._resource.api_version}
            decode(document, _WHERE, from_manifest=False)
        except ObjectError as complaint:
            sentence = str(complaint)
        except UNREADABLE:
            pass
        key = identify(document)
        self._note(key, [f"{sentence}; its last good version stays, if there was one"])
        return Reading(key)

    def _note(self, key: ObjectKey | None, sentences: list[str]) -> None:
        known = self._problems.pop(key, ())
        for sentence in sentences:
            if sentence not in known:
                log.error(sentence)
        if sentences:
            self._problems[key] = tuple(sentences)
        elif known:
            log.info("Mended", object=str(key))


def _decoder_of(kind: type[ClusterObject]) -> Decode:
    decoders: dict[type[ClusterObject], Decode] = {
        Service: lambda shaped, checker: (decode_service(shaped, checker),),
        EndpointSlice: decode_slice,
        Node: lambda shaped, checker: (decode_node(shaped, checker),),
    }
    return decoders[kind]
