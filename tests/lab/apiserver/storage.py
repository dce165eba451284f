"""Objects with one counter of revisions and a history of changes, as etcd keeps them.

Thread-safe: every call takes the one lock for the microseconds it needs.
"""

import threading
import uuid
from bisect import bisect_right
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from tests.lab.apiserver.resources import Resource, resource_of
from tests.lab.apiserver.selectors import Predicate
from tests.lab.apiserver.status import already_exists, conflict, not_found, too_old

Object = dict[str, Any]
Key = tuple[str, str]
"""Namespace (empty for a Node) and name."""

_MOST_HISTORY = 200_000
"""Changes kept. Beyond it the oldest half is compacted away, as etcd's own compaction would."""


class Version:
    """One object as it was from one revision on. ``document`` is never changed."""

    __slots__ = ("_item", "document", "resource", "revision")

    def __init__(self, resource: Resource, document: Object, revision: int) -> None:
        self.resource = resource
        self.document = document
        self.revision = revision
        self._item: bytes | None = None

    @property
    def item(self) -> bytes:
        """JSON as it stands in a list: without kind and apiVersion."""
        if self._item is None:
            metadata = {**self.document["metadata"], "resourceVersion": str(self.revision)}
            self._item = msgspec.json.encode({**self.document, "metadata": metadata})
        return self._item

    @property
    def full(self) -> bytes:
        """JSON as it stands alone and in watch events."""
        head = f'{{"kind":"{self.resource.kind}","apiVersion":"{self.resource.api_version}"'.encode()
        return head + b"," + self.item[1:]

    def at(self, revision: int) -> "Version":
        """The same object with another resourceVersion: how a deletion shows its last state."""
        return Version(self.resource, self.document, revision)


class Change(msgspec.Struct, frozen=True):
    """What one revision did to one object; None stands for "not there"."""

    revision: int
    before: Version | None
    after: Version | None

    def seen_through(self, predicate: Predicate) -> tuple[str, Version] | None:
        """The watch event for a watcher with selectors: leaving the selection is a deletion to it."""
        was = self.before if self.before and predicate(self.before.document) else None
        now = self.after if self.after and predicate(self.after.document) else None
        if now:
            return "MODIFIED" if was else "ADDED", now
        return ("DELETED", was.at(self.revision)) if was else None


class Storage:
    """All objects. `changed` is called after each change, outside the lock, from the thread that made it."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._lock = threading.Lock()
        self._revision = 1
        self._oldest = 0
        self._cached_from = 0
        self._objects: dict[str, dict[Key, Version]] = {}
        self._history: dict[str, list[Change]] = {}

    @property
    def revision(self) -> int:
        """The newest revision."""
        return self._revision

    @property
    def oldest(self) -> int:
        """The compacted revision: what was before it is forgotten."""
        return self._oldest

    def put(self, document: Mapping[str, Any]) -> Version:
        """Create an object or put it in the place of its predecessor, whatever its resourceVersion says.

        An object equal to what is there makes no new revision. Raises KeyError for an unknown kind.
        """
        resource, key, copy = _parse(document)
        with self._lock:
            version = self._write(resource, key, copy)
        self._changed()
        return version

    def create(self, document: Mapping[str, Any]) -> Version:
        """Raises ApiError 409 where the name is taken."""
        resource, key, copy = _parse(document)
        with self._lock:
            if key in self._of(resource):
                raise already_exists(resource, key[1])
            version = self._write(resource, key, copy)
        self._changed()
        return version

    def update(self, resource: Resource, key: Key, edit: Callable[[Object], Mapping[str, Any]]) -> Version:
        """Replace an object by what `edit` makes of it; `edit` gets a copy with kind and resourceVersion.

        Raises ApiError 404 where there is none, 409 where the result names another resourceVersion.
        """
        with self._lock:
            old = self._of(resource).get(key)
            if old is None:
                raise not_found(resource, key[1])
            edited = edit(msgspec.json.decode(old.full))
            _resource, _key, copy = _parse({**edited, "kind": resource.kind})
            wanted = copy["metadata"].pop("resourceVersion", None)
            if wanted not in (None, "", str(old.revision)):
                raise conflict(resource, key[1])
            version = self._write(resource, key, copy)
        self._changed()
        return version

    def delete(self, resource: Resource, key: Key) -> Version:
        """The object as it was last, with the revision of its deletion. Raises ApiError 404."""
        with self._lock:
            old = self._of(resource).pop(key, None)
            if old is None:
                raise not_found(resource, key[1])
            self._append(resource, old, None)
            last = old.at(self._revision)
        self._changed()
        return last

    def get(self, resource: Resource, key: Key) -> Version:
        """Raises ApiError 404."""
        found = self._of(resource).get(key)
        if found is None:
            raise not_found(resource, key[1])
        return found

    def snapshot(self, resource: Resource, revision: int | None = None) -> tuple[int, list[tuple[Key, Version]]]:
        """A revision and all objects of it in etcd's order; the newest where none is named.

        Raises ApiError 410 where it is compacted away.
        """
        with self._lock:
            objects = dict(self._of(resource))
            if revision is None:
                revision = self._revision
            else:
                for change in reversed(self._after(resource, revision)):
                    _undo(objects, change)
        return revision, sorted(objects.items(), key=lambda entry: etcd_order(entry[0]))

    def since(self, resource: Resource, revision: int, *, live: bool = False) -> tuple[int, list[Change]]:
        """The newest revision, and the changes after `revision`.

        Raises ApiError 410 where that is compacted away, or older than the server's start, except for a watch that is
        `live`, under way already.
        """
        with self._lock:
            if revision < self._cached_from and not live:
                raise too_old(revision, self._cached_from)
            return self._revision, self._after(resource, revision, live=live)

    def tail(self, resource: Resource, count: int) -> list[Change]:
        """The last changes, at most `count` of them."""
        with self._lock:
            return self._history.get(resource.plural, [])[-count:]

    def all(self) -> list[Version]:
        with self._lock:
            return [version for objects in self._objects.values() for version in objects.values()]

    def compact(self) -> int:
        """Refuse all history to new requests: an older revision is answered 410. The new oldest revision."""
        with self._lock:
            self._revision += 1  # so that the newest revision a client knows is too old as well
            self._oldest = self._revision
            return self._oldest

    def restarted(self) -> None:
        """Begin the watch cache anew: lists may still be continued, watches go on from no earlier revision.

        A server writes objects of its own when it starts, such as its lease, so no client has the newest revision.
        """
        with self._lock:
            self._revision += 1
            self._cached_from = self._revision

    def restore(self, revision: int) -> None:
        """Go on from an older revision without any history: objects as they are, each of them at it."""
        with self._lock:
            self._history.clear()
            self._revision, self._oldest, self._cached_from = revision, 0, 0
            for objects in self._objects.values():
                for key, version in objects.items():
                    objects[key] = version.at(revision)

    def _of(self, resource: Resource) -> dict[Key, Version]:
        return self._objects.setdefault(resource.plural, {})

    def _after(self, resource: Resource, revision: int, *, live: bool = False) -> list[Change]:
        if revision < self._oldest and not live:
            raise too_old(revision, self._oldest)
        history = self._history.get(resource.plural, [])
        return history[bisect_right(history, revision, key=lambda change: change.revision) :]

    def _write(self, resource: Resource, key: Key, document: Object) -> Version:
        objects = self._of(resource)
        old = objects.get(key)
        _complete(document["metadata"], old)
        if old is not None and old.document == document:
            return old
        new = objects[key] = Version(resource, document, self._revision + 1)
        self._append(resource, old, new)
        return new

    def _append(self, resource: Resource, before: Version | None, after: Version | None) -> None:
        self._revision += 1
        history = self._history.setdefault(resource.plural, [])
        history.append(Change(self._revision, before, after))
        if len(history) > _MOST_HISTORY:
            del history[: _MOST_HISTORY // 2]
            self._oldest = max(self._oldest, history[0].revision - 1)


def _parse(document: Mapping[str, Any]) -> tuple[Resource, Key, Object]:
    """What kind it is, its key, and a copy without kind and apiVersion."""
    copy: Object = msgspec.json.decode(msgspec.json.encode(document))
    resource = resource_of(copy.pop("kind"))
    copy.pop("apiVersion", None)
    metadata = copy["metadata"]
    if resource.namespaced:
        metadata["namespace"] = metadata.get("namespace") or "default"
    return resource, (metadata["namespace"] if resource.namespaced else "", metadata["name"]), copy


def _complete(metadata: Object, old: Version | None) -> None:
    """Fill in what the server owns; a replaced object keeps its identity."""
    metadata.pop("resourceVersion", None)
    if old is not None:
        metadata["uid"] = old.document["metadata"]["uid"]
        metadata["creationTimestamp"] = old.document["metadata"]["creationTimestamp"]
        return
    if not metadata.get("uid"):
        metadata["uid"] = str(uuid.uuid4())
    if not metadata.get("creationTimestamp"):
        metadata["creationTimestamp"] = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _undo(objects: dict[Key, Version], change: Change) -> None:
    version = change.after or change.before
    assert version is not None
    metadata = version.document["metadata"]
    key = (metadata.get("namespace", "") if version.resource.namespaced else "", metadata["name"])
    if change.before is None:
        objects.pop(key, None)
    else:
        objects[key] = change.before


def etcd_order(key: Key) -> str:
    """What lists are sorted by."""
    return "/".join(key)
