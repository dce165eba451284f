"""One manifest file: text becomes objects and problems, and bad parts fall back to their last good version. Pure.

A file whose text is malformed keeps its last good content. A document that does not validate keeps its last good
version, and all others in the file are used.
"""

from collections.abc import Iterable

from msgspec import Struct

from userproxy.cluster.objects.documents import decode, expand
from userproxy.cluster.objects.keys import ClusterObject, ObjectKey, identify, object_key
from userproxy.errors import ObjectError
from userproxy.yaml_reader import parse


class ManifestProblem(Struct, frozen=True):
    """One sentence about a manifest. `subject` is the object or file, which is mended once it has no problem."""

    subject: str
    text: str


class Entry(Struct, frozen=True):
    """One document, or one item of a List, with the objects in it. `where` is its place in the file."""

    where: str
    key: ObjectKey
    objects: tuple[ClusterObject, ...]


class Manifest(Struct, frozen=True):
    """The content of a file: entries in their order, and what is wrong with it."""

    entries: tuple[Entry, ...] = ()
    problems: tuple[ManifestProblem, ...] = ()

    def keys(self) -> set[ObjectKey]:
        """The keys of all objects in the file."""
        return {object_key(item) for entry in self.entries for item in entry.objects}


def read_manifest(data: bytes, file: str, last: Manifest) -> Manifest:
    """The content of `file`; what is malformed is taken from its `last` content."""
    try:
        documents = list(parse(data, file))
    except ObjectError as error:
        return unreadable(file, str(error), last)
    reader = _Reader(file, last)
    for number, document in enumerate(documents, 1):
        reader.read(document, f"{file} document {number}")
    return Manifest(tuple(reader.entries), tuple(reader.problems))


def unreadable(file: str, complaint: str, last: Manifest) -> Manifest:
    """The `last` content of a file that cannot be read now, for the reason in `complaint`."""
    stays = "; its last good content stays" if last.entries else ""
    others = (problem for problem in last.problems if problem.subject != file)
    return Manifest(last.entries, (ManifestProblem(file, complaint + stays), *others))


def combine(manifests: Iterable[Manifest]) -> tuple[dict[ObjectKey, ClusterObject], tuple[ManifestProblem, ...]]:
    """All objects of all files. Of two with the same key the first counts, and the other is a problem."""
    objects: dict[ObjectKey, ClusterObject] = {}
    owners: dict[ObjectKey, Entry] = {}
    problems: list[ManifestProblem] = []
    for manifest in manifests:
        problems += manifest.problems
        for entry in manifest.entries:
            for item in entry.objects:
                key = object_key(item)
                owner = owners.setdefault(key, entry)
                if owner is entry:
                    objects[key] = item
                else:
                    sentence = f"{entry.where} ({entry.key}): {owner.where} has {key} already, and the first counts"
                    problems.append(ManifestProblem(entry.where, sentence))
    return objects, tuple(problems)


class _Reader:
    """Collects the entries of one file, document by document."""

    def __init__(self, file: str, last: Manifest) -> None:
        self._file = file
        self._last: dict[ObjectKey, Entry] = {}
        for entry in last.entries:
            self._last.setdefault(entry.key, entry)
        self.entries: list[Entry] = []
        self.problems: list[ManifestProblem] = []

    def read(self, document: object, where: str) -> None:
        if document is None:
            return
        try:
            for item, place in expand(document, where):
                self._read_item(item, place)
        except ObjectError as error:
            self.problems.append(ManifestProblem(where, str(error)))

    def _read_item(self, item: object, where: str) -> None:
        key = identify(item)
        subject = f"{self._file} ({key})" if key else where
        try:
            decoded = decode(item, where, key=key)
        except ObjectError as error:
            kept = self._last.get(key) if key else None
            self.problems.append(
                ManifestProblem(subject, f"{error}; its last good version stays" if kept else str(error))
            )
            if kept:
                self.entries.append(Entry(where, kept.key, kept.objects))
            return
        self.problems += [ManifestProblem(subject, text) for text in decoded.problems]
        if key and decoded.objects:
            self.entries.append(Entry(where, key, decoded.objects))
