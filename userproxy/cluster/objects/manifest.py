"""What one manifest file holds, and what all of them hold together. Pure.

What cannot be read does not take away what could: a file whose text is malformed keeps its last good content, a
document that does not validate keeps its last good version, and its neighbours are served.
"""

from collections.abc import Iterable

from msgspec import Struct

from userproxy.cluster.objects.documents import decode, expand
from userproxy.cluster.objects.keys import ClusterObject, ObjectKey, identify, object_key
from userproxy.errors import ObjectError
from userproxy.yaml_reader import parse


class Problem(Struct, frozen=True):
    """One sentence about a manifest, and whom it is about: the same subject with no problem is mended."""

    subject: str
    text: str


class Entry(Struct, frozen=True):
    """One document or item of a List, and the objects that it gave."""

    where: str
    key: ObjectKey
    objects: tuple[ClusterObject, ...]


class Content(Struct, frozen=True):
    """What a file holds: entries in their order, and what is wrong with it."""

    entries: tuple[Entry, ...] = ()
    problems: tuple[Problem, ...] = ()

    def keys(self) -> set[ObjectKey]:
        return {object_key(item) for entry in self.entries for item in entry.objects}


def read_content(data: bytes, file: str, last: Content) -> Content:
    """The content of `file`, falling back to its `last` one where it is malformed."""
    try:
        documents = list(parse(data, file))
    except ObjectError as error:
        return unreadable(file, str(error), last)
    reader = _Reader(file, last)
    for number, document in enumerate(documents, 1):
        reader.read(document, f"{file} document {number}")
    return Content(tuple(reader.entries), tuple(reader.problems))


def unreadable(file: str, complaint: str, last: Content) -> Content:
    """The `last` content of a file that nothing can be learnt from now."""
    stays = "; its last good content stays" if last.entries else ""
    others = (problem for problem in last.problems if problem.subject != file)
    return Content(last.entries, (Problem(file, complaint + stays), *others))


def combine(contents: Iterable[Content]) -> tuple[dict[ObjectKey, ClusterObject], tuple[Problem, ...]]:
    """All objects of all files; of two that are the same one, the first counts and the other is a problem."""
    objects: dict[ObjectKey, ClusterObject] = {}
    owners: dict[ObjectKey, Entry] = {}
    problems: list[Problem] = []
    for content in contents:
        problems += content.problems
        for entry in content.entries:
            for item in entry.objects:
                key = object_key(item)
                owner = owners.setdefault(key, entry)
                if owner is entry:
                    objects[key] = item
                else:
                    sentence = f"{entry.where} ({entry.key}): {owner.where} has {key} already, and the first counts"
                    problems.append(Problem(entry.where, sentence))
    return objects, tuple(problems)


class _Reader:
    """Collects the entries of one file, document by document."""

    def __init__(self, file: str, last: Content) -> None:
        self._file = file
        self._last: dict[ObjectKey, Entry] = {}
        for entry in last.entries:
            self._last.setdefault(entry.key, entry)
        self.entries: list[Entry] = []
        self.problems: list[Problem] = []

    def read(self, document: object, where: str) -> None:
        if document is None:
            return
        try:
            for item, place in expand(document, where):
                self._read_item(item, place)
        except ObjectError as error:
            self.problems.append(Problem(where, str(error)))

    def _read_item(self, item: object, where: str) -> None:
        key = identify(item)
        subject = f"{self._file} ({key})" if key else where
        try:
            decoded = decode(item, where)
        except ObjectError as error:
            kept = self._last.get(key) if key else None
            self.problems.append(Problem(subject, f"{error}; its last good version stays" if kept else str(error)))
            if kept:
                self.entries.append(Entry(where, kept.key, kept.objects))
            return
        self.problems += [Problem(subject, text) for text in decoded.problems]
        if key and decoded.objects:
            self.entries.append(Entry(where, key, decoded.objects))
