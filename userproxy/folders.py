"""What happens in folders, as inotify(7) tells it.

By two calls of the C library rather than a package that brings a thread and another library for concurrency with it: to
import these took a twentieth of a start. Here because `cluster` and `wiring` watch files, and do not know each other.
"""

import asyncio
import ctypes
import errno
import os
import struct
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Self

_LIBC: Final = ctypes.CDLL(None, use_errno=True)

# sys/inotify.h
_MODIFY, _ATTRIB, _CLOSE_WRITE = 0x2, 0x4, 0x8
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF, _UNMOUNT, _IGNORED, _ONLYDIR = 0x400, 0x800, 0x2000, 0x8000, 0x1000000

_MASK: Final = (
    _MODIFY
    | _ATTRIB
    | _CLOSE_WRITE
    | _MOVED_FROM
    | _MOVED_TO
    | _CREATE
    | _DELETE
    | _DELETE_SELF
    | _MOVE_SELF
    | _ONLYDIR
)
_ENDS: Final = _DELETE_SELF | _MOVE_SELF | _UNMOUNT | _IGNORED
"""Events after which the folder of that name is another one, or none."""

_EVENT: Final = struct.Struct("iIII")
_READ: Final = 64 * 1024
_MOST_STEPS: Final = 1000
"""Parts of a path, with those of links; the kernel follows 40 links."""


class FolderWatch:
    """Watches some folders, without what is in folders within them, from the moment on when it is made.

    A context that ends the watch. To be used on the loop's thread, by one task. Making it raises OSError:
    FileNotFoundError where a folder is missing, others where it cannot be read or the kernel gives no more watches.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None
        self._descriptor = _checked(_LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        try:
            for folder in folders:
                _checked(_LIBC.inotify_add_watch(self._descriptor, os.fsencode(folder), _MASK), folder)
        except OSError:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, _error: object, _trace: object) -> None:
        os.close(self._descriptor)

    def end(self) -> None:
        """Have :meth:`changed` return False, now and from now on."""
        self._ended = True
        self._wake()

    async def changed(self, quiet: float, longest: float) -> bool:
        """Wait until something happens, and then until nothing does for `quiet` seconds, for at most `longest`.

        Returns False where a folder has been deleted, moved or unmounted: another one may have its name by now.
        """
        clock = asyncio.get_running_loop().time
        stand = await self._happened()
        end = clock() + longest
        while stand and (left := min(quiet, end - clock())) > 0:
            try:
                async with asyncio.timeout(left):
                    stand = await self._happened()
            except TimeoutError:
                break
        return stand

    async def _happened(self) -> bool:
        """Wait for the next events; whether all folders are still those that are watched."""
        while not self._ended:
            try:
                data = os.read(self._descriptor, _READ)
            except BlockingIOError:
                await self._readable()
            else:
                return not any(mask & _ENDS for mask in _masks(data))
        return False

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        loop.add_reader(self._descriptor, self._wake)
        try:
            await self._waiter
        finally:
            loop.remove_reader(self._descriptor)
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def leading_to(file: Path) -> tuple[Path, ...]:
    """The folders in which something has to happen for `file` to be another one: its own, and those of symbolic links.

    As links lead now; a missing part ends the search. Raises OSError where they lead in a circle, or cannot be read.
    """
    found: dict[Path, None] = {}
    at = Path("/")
    parts = deque(file.absolute().parts[1:])
    for _ in range(_MOST_STEPS):
        if not parts:
            return tuple(found)
        part = parts.popleft()
        if part == "..":
            at = at.parent
            continue
        if (at / part).is_symlink():
            found[at] = None
            target = (at / part).readlink()
            at = Path("/") if target.is_absolute() else at
            parts.extendleft(reversed(target.parts[1:] if target.is_absolute() else target.parts))
            continue
        if not parts:
            found[at] = None
        at /= part
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(file))


def _masks(data: bytes) -> Iterator[int]:
    """The masks of the events that were read."""
    position = 0
    while position < len(data):
        _, mask, _, length = _EVENT.unpack_from(data, position)
        yield mask
        position += _EVENT.size + length


def _checked(result: int, folder: Path | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), *([str(folder)] if folder is not None else []))
    return result
