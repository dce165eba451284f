"""Kubernetes objects from files: read once at the start, and again whenever they change.

A change is noticed by watching the folders that the files are in: so is an editor that renames a new file
into place, and a ConfigMap mount, where only the hidden link ``..data`` changes. A look every ten seconds
finds what the kernel does not tell: a folder that comes back, a link into another folder, a network file
system.
"""

import asyncio
import os
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from hashlib import sha256
from pathlib import Path

import structlog
from msgspec import Struct, structs
from watchfiles import awatch

from userproxy.cluster.objects.keys import ClusterObject, ObjectKey
from userproxy.cluster.objects.manifest import Content, Problem, combine, read_content, unreadable
from userproxy.cluster.store import Store
from userproxy.errors import UsageError

log = structlog.get_logger()

_SUFFIXES = frozenset({".yaml", ".yml", ".json"})
_LOOK = 10.0
_DOUBT = 0.3
"""A file that has dropped objects must have said the same for so long before it is believed. Seconds."""
_QUIET_MS = 200
_LONGEST_WRITE_MS = 1000
"""A look waits until nothing has changed for the one time, but not longer than the other."""

_GONE = b"gone"


class _Held(Struct, frozen=True):
    """A later state of a file that drops objects, and when it was first seen."""

    digest: bytes
    since: float


class _File(Struct, frozen=True):
    """A file as it was last taken over, and the later state of it that is in doubt."""

    digest: bytes = b""
    content: Content = Content()
    held: _Held | None = None

    def becomes(self, digest: bytes, content: Content) -> "_File":
        """The file with new content; one that drops objects is held until it has stayed the same for a while.

        A file that is just being written, truncated or renamed must not cost a Service its listener.
        """
        if not self.content.keys() - content.keys():
            return _File(digest, content)
        now = time.monotonic()
        if self.held is None or self.held.digest != digest:
            return structs.replace(self, held=_Held(digest, now))
        return _File(digest, content) if now - self.held.since >= _DOUBT else self


class ManifestSource:
    """Keeps a Store equal to what files say.

    `paths` are files, or folders whose ``*.yaml``, ``*.yml`` and ``*.json`` are read, hidden ones and folders inside
    excepted; their order decides which of two versions of an object counts. `on_change` is called, in the
    loop of `watch`, when the Store has changes to take.
    """

    def __init__(self, paths: Sequence[Path], store: Store, on_change: Callable[[], None]) -> None:
        self._paths = tuple(dict.fromkeys(paths))
        self._store = store
        self._on_change = on_change
        self._files: dict[Path, _File] = {}
        self._objects: dict[ObjectKey, ClusterObject] = {}
        self._problems: tuple[Problem, ...] = ()
        self._watched: dict[Path, tuple[int, int]] = {}
        self._moved = asyncio.Event()

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence for each thing that is wrong with the manifests now."""
        return tuple(problem.text for problem in self._problems)

    def load(self) -> None:
        """Read everything once. Raises UsageError for a path that does not exist or cannot be read."""
        for path in self._paths:
            _require(path)
        self._take_over(self._look())
        log.info("Manifests read", files=len(self._files), objects=len(self._objects))

    async def watch(self) -> None:
        """Keep the Store up to date until cancelled."""
        changed = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._notice(changed), name="notice changed manifests")
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_DOUBT if self._in_doubt() else _LOOK):
                        await changed.wait()
                changed.clear()
                # Reading and parsing go to a thread: thousands of Services take longer than a packet may wait.
                self._take_over(await asyncio.to_thread(self._look))
                if self._store.has_changes:
                    self._on_change()
                if await asyncio.to_thread(self._folders) != self._watched:
                    self._moved.set()

    async def _notice(self, changed: asyncio.Event) -> None:
        """Set `changed` whenever something happens in a folder."""
        reported = ""
        while True:
            self._watched = await asyncio.to_thread(self._folders)
            self._moved.clear()
            changes = awatch(
                *self._watched,
                watch_filter=None,
                recursive=False,
                step=_QUIET_MS,
                debounce=_LONGEST_WRITE_MS,
                stop_event=self._moved,
            )
            # awatch begins to watch before it first gives way to the loop: what happened until then needs a look.
            asyncio.get_running_loop().call_soon(changed.set)
            try:
                async with aclosing(changes):
                    async for happened in changes:
                        reported = ""
                        changed.set()
                        # A folder that was deleted and made again may even have its old inode.
                        if any(Path(name) in self._watched for _, name in happened):
                            break
            except FileNotFoundError:  # a folder went away just now
                await asyncio.sleep(_DOUBT)
            except (OSError, RuntimeError) as error:
                if str(error) != reported:
                    log.warning("Manifests cannot be watched, and are read every ten seconds", reason=str(error))
                reported = str(error)
                await asyncio.sleep(_LOOK)

    def _in_doubt(self) -> bool:
        return any(file.held is not None for file in self._files.values())

    def _folders(self) -> dict[Path, tuple[int, int]]:
        """The folders to watch, with device and inode: those given, and those of given files, if they are there."""
        folders = {path if _is_folder(_stat(path)) else path.parent for path in self._paths}
        stats = {folder: _stat(folder) for folder in folders}
        return {folder: (found.st_dev, found.st_ino) for folder, found in stats.items() if found}

    def _look(self) -> dict[Path, _File]:
        """What each file says now, in the order in which they count. Only a file whose bytes are new is parsed."""
        looked: dict[Path, _File] = {}
        for path in self._paths:
            try:
                files = _files(path)
            except OSError as error:
                looked |= {known: file for known, file in self._files.items() if known.parent == path}
                looked[path] = _unreadable(path, error, self._files.get(path, _File()))
            else:
                looked |= {file: _read(file, self._files.get(file, _File())) for file in files if file not in looked}
        gone = {path: file.becomes(_GONE, Content()) for path, file in self._files.items() if path not in looked}
        missing = {path: _missing(path) for path in self._paths if looked.get(path) == _File(_GONE)}
        return {path: file for path, file in (looked | gone | missing).items() if file != _File(_GONE)}

    def _take_over(self, files: dict[Path, _File]) -> None:
        """Make the Store say what the files say, and tell what is wrong with them once."""
        self._files = files
        objects, problems = combine(file.content for file in files.values() if file.held is None)
        doubtful = [file.content for file in files.values() if file.held is not None]
        objects = combine(doubtful)[0] | objects  # an object that moves to another file is never in two
        problems += tuple(problem for content in doubtful for problem in content.problems)
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
    """A given file, or the manifests in a given folder by name; hidden ones are drafts and links of mounts.

    Raises OSError where a folder may well be there but cannot be read.
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
        return last.becomes(_GONE, Content())
    except OSError as error:
        return _unreadable(path, error, last)
    digest = sha256(data).digest()
    if digest == last.digest:
        return structs.replace(last, held=None)
    return last.becomes(digest, read_content(data, str(path), last.content))


def _unreadable(path: Path, error: OSError, last: _File) -> _File:
    """Without a digest, so that the file counts as new when it can be read again."""
    complaint = f"{path}: cannot be read: {error.strerror or error}"
    return _File(content=unreadable(str(path), complaint, last.content))


def _missing(path: Path) -> _File:
    return _File(content=unreadable(str(path), f"{path}: there is no such file or folder any more", Content()))


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _is_folder(found: os.stat_result | None) -> bool:
    return found is not None and stat.S_ISDIR(found.st_mode)


def _may_be_text(found: os.stat_result | None) -> bool:
    """Whether to try and read it: reading a pipe would wait for its writer."""
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
