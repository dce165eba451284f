"""Manifest files and folders as the source of Kubernetes objects: read at the start, and again when they change.

Changes are noticed by watching the folders that the files are in. That also finds an editor that renames a new file
into place, and a ConfigMap mount, where only the hidden link ``..data`` changes. Everything is read every ten seconds,
too, for what the kernel does not report: a folder that comes back, a link into another folder, a network file system.
"""

import asyncio
import os
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import structlog
from msgspec import Struct, structs

from userproxy.cluster.objects.keys import ClusterObject, ObjectKey
from userproxy.cluster.objects.manifest import Manifest, ManifestProblem, combine, read_manifest, unreadable
from userproxy.cluster.store import Store
from userproxy.errors import UsageError
from userproxy.folders import FolderWatch
from userproxy.model.sources import WatchReport

log = structlog.get_logger()

_SUFFIXES = frozenset({".yaml", ".yml", ".json"})
_READ_EVERY = 10.0
_CONFIRM_AFTER = 0.3
"""A file that has lost objects must stay the same for so long before they are deleted. Seconds."""
_QUIET = 0.2
_LONGEST_WRITE = 1.0
"""After a change files are read once nothing has changed for the first time, but at the latest after the second."""

_GONE = b"gone"
"""In the place of the digest of a file that is not there."""


class _Unconfirmed(Struct, frozen=True):
    """A new state of a file in which objects are missing, and when it was first seen (monotonic, seconds)."""

    digest: bytes
    since: float


class _File(Struct, frozen=True):
    """A file as it was last used, and a later state of it that is not yet confirmed."""

    digest: bytes = b""
    content: Manifest = Manifest()
    unconfirmed: _Unconfirmed | None = None

    def updated(self, digest: bytes, content: Manifest) -> "_File":
        """The file with new content, which is used at once, or if objects are missing once it has stayed the same.

        So a file that is being written, truncated or renamed costs no Service its listener.
        """
        if not self.content.keys() - content.keys():
            return _File(digest, content)
        now = time.monotonic()
        if self.unconfirmed is None or self.unconfirmed.digest != digest:
            return structs.replace(self, unconfirmed=_Unconfirmed(digest, now))
        return _File(digest, content) if now - self.unconfirmed.since >= _CONFIRM_AFTER else self


class ManifestSource:
    """Keeps a Store equal to what manifests say.

    `paths` are files, or folders whose ``*.yaml``, ``*.yml`` and ``*.json`` are read, without hidden files and
    subfolders. Where an object is in two files, that of the first path counts. `on_change` is called on the loop's
    thread when the Store has changes to take.
    """

    def __init__(self, paths: Sequence[Path], store: Store, on_change: Callable[[], None]) -> None:
        self._paths = tuple(dict.fromkeys(paths))
        self._store = store
        self._on_change = on_change
        self._files: dict[Path, _File] = {}
        self._objects: dict[ObjectKey, ClusterObject] = {}
        self._problems: tuple[ManifestProblem, ...] = ()
        self._heard: float | None = None
        """When objects were last others than before (monotonic, seconds)."""
        self._watched: dict[Path, tuple[int, int]] = {}
        self._watch: FolderWatch | None = None

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence for each thing that is wrong with the manifests now."""
        return tuple(problem.text for problem in self._problems)

    @property
    def report(self) -> WatchReport:
        """How current the manifests are: the last event is their last change."""
        age = None if self._heard is None else time.monotonic() - self._heard
        return WatchReport("manifests", self._heard is not None, age)

    def load(self) -> None:
        """Read everything once. Raises UsageError for a path that does not exist or cannot be read."""
        for path in self._paths:
            _require(path)
        self._update_store(self._read_all())
        log.info("Manifests read", files=len(self._files), objects=len(self._objects))

    async def watch(self) -> None:
        """Keep the Store up to date until cancelled."""
        changed = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_folders(changed), name="watch folders of manifests")
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_CONFIRM_AFTER if self._has_unconfirmed() else _READ_EVERY):
                        await changed.wait()
                changed.clear()
                # Reading and parsing go to a thread: thousands of Services take longer than a packet may wait.
                self._update_store(await asyncio.to_thread(self._read_all))
                if self._store.has_changes:
                    self._on_change()
                if await asyncio.to_thread(self._folders) != self._watched and self._watch is not None:
                    self._watch.end()

    async def _watch_folders(self, changed: asyncio.Event) -> None:
        """Set `changed` whenever something changes in a folder."""
        reported = ""
        while True:
            self._watched = await asyncio.to_thread(self._folders)
            try:
                with FolderWatch(self._watched) as watch:
                    self._watch = watch
                    changed.set()  # for what has changed before, everything is read again
                    while await watch.changed(_QUIET, _LONGEST_WRITE):
                        reported = ""
                        changed.set()
            except FileNotFoundError:  # a folder went away just now
                await asyncio.sleep(_CONFIRM_AFTER)
            except OSError as error:
                reason = error.strerror or str(error)
                if reason != reported:
                    log.warning("Manifests cannot be watched, and are read every ten seconds", reason=reason)
                reported = reason
                await asyncio.sleep(_READ_EVERY)
            finally:
                self._watch = None

    def _has_unconfirmed(self) -> bool:
        return any(file.unconfirmed is not None for file in self._files.values())

    def _folders(self) -> dict[Path, tuple[int, int]]:
        """The folders to watch, with device and inode: those given, and those of given files, if they are there."""
        folders = {path if _is_folder(_stat(path)) else path.parent for path in self._paths}
        stats = {folder: _stat(folder) for folder in folders}
        return {folder: (found.st_dev, found.st_ino) for folder, found in stats.items() if found}

    def _read_all(self) -> dict[Path, _File]:
        """All files as they are now, by precedence. Only files whose bytes have changed are parsed. Blocks."""
        looked: dict[Path, _File] = {}
        for path in self._paths:
            try:
                files = _files(path)
            except OSError as error:
                looked |= {known: file for known, file in self._files.items() if known.parent == path}
                looked[path] = _unreadable(path, error, self._files.get(path, _File()))
            else:
                looked |= {file: _read(file, self._files.get(file, _File())) for file in files if file not in looked}
        gone = {path: file.updated(_GONE, Manifest()) for path, file in self._files.items() if path not in looked}
        missing = {path: _missing(path) for path in self._paths if looked.get(path) == _File(_GONE)}
        return {path: file for path, file in (looked | gone | missing).items() if file != _File(_GONE)}

    def _update_store(self, files: dict[Path, _File]) -> None:
        """Make the Store equal to `files`, and log what is wrong with them, each problem once.

        Nothing is to be done where they are as they were: all is read every ten seconds, and traffic would wait while
        thousands of objects are compared.
        """
        if self._heard is not None and _are_same(files, self._files):
            return
        self._files = files
        objects, problems = combine(file.content for file in files.values() if file.unconfirmed is None)
        unconfirmed = [file.content for file in files.values() if file.unconfirmed is not None]
        objects = combine(unconfirmed)[0] | objects  # an object may have moved to a file that is confirmed
        problems += tuple(problem for content in unconfirmed for problem in content.problems)
        if self._heard is None or objects != self._objects:
            self._heard = time.monotonic()
        for key in self._objects.keys() - objects.keys():
            self._store.delete(key)
        for item in objects.values():
            self._store.upsert(item)
        self._objects = objects
        known = {problem.text for problem in self._problems}
        for problem in problems:
            if problem.text not in known:
                log.error(problem.text)
        wrong = {problem.subject for problem in problems}
        for subject in sorted({problem.subject for problem in self._problems} - wrong):
            log.info("Mended", manifest=subject)
        self._problems = problems


def _files(path: Path) -> list[Path]:
    """The manifests in the folder `path`, by name, or `path` itself where it is no folder.

    Hidden files are left out: they are drafts, and the links of mounts. Raises OSError where a folder cannot be read.
    """
    try:
        return sorted(
            file
            for file in path.iterdir()
            if file.suffix in _SUFFIXES and not file.name.startswith(".") and _may_be_text(_stat(file))
        )
    except (FileNotFoundError, NotADirectoryError):
        return [path]


def _read(path: Path, last: _File) -> _File:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return last.updated(_GONE, Manifest())
    except OSError as error:
        return _unreadable(path, error, last)
    digest = sha256(data).digest()
    if digest == last.digest:
        return structs.replace(last, unconfirmed=None)
    return last.updated(digest, read_manifest(data, str(path), last.content))


def _are_same(files: dict[Path, _File], before: dict[Path, _File]) -> bool:
    """Whether the same files, by the same precedence, have the same content."""
    return list(files) == list(before) and all(
        file.digest == old.digest and file.content is old.content and file.unconfirmed == old.unconfirmed
        for file, old in zip(files.values(), before.values(), strict=True)
    )


def _unreadable(path: Path, error: OSError, last: _File) -> _File:
    """The last good content with the error; without a digest, so that the file is parsed when it can be read again."""
    complaint = f"{path}: cannot be read: {error.strerror or error}"
    return _File(content=unreadable(str(path), complaint, last.content))


def _missing(path: Path) -> _File:
    return _File(content=unreadable(str(path), f"{path}: there is no such file or folder any more", Manifest()))


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _is_folder(found: os.stat_result | None) -> bool:
    return found is not None and stat.S_ISDIR(found.st_mode)


def _may_be_text(found: os.stat_result | None) -> bool:
    """Whether to read it. Reading a pipe would wait for its writer."""
    return found is None or stat.S_ISREG(found.st_mode)


def _require(path: Path) -> None:
    """Raises UsageError unless `path` can be read."""
    try:
        if _is_folder(_stat(path)):
            list(path.iterdir())
        elif _may_be_text(_stat(path)):
            path.read_bytes()
        else:
            raise UsageError(f"--manifests: {path}: neither a file nor a folder")
    except OSError as error:
        raise UsageError(f"--manifests: {path}: {(error.strerror or str(error)).lower()}") from error
