"""The admin socket: whose it is, and who may connect."""

import errno
import os
import socket
import stat
import struct
from pathlib import Path
from typing import Final

import structlog

from userproxy.errors import UserproxyError
from userproxy.sockets import NamedSockets

log = structlog.get_logger()

_CREDENTIALS: Final = struct.Struct("=iII")  # struct ucred, linux/socket.h
_QUEUE: Final = 16


class SocketUnavailableError(UserproxyError):
    """The socket cannot be made. The text is a clause that says why."""


class SocketTakenError(SocketUnavailableError):
    """Another process answers at the path."""


class AdminSocket:
    """A listening Unix socket at `path`, for root and our own user alone.

    The folder is made if it is not there. A socket that a process has left behind is replaced. Raises
    SocketTakenError where another process answers, and SocketUnavailableError where it cannot be made at all.
    """

    def __init__(
        self, path: Path, sockets: NamedSockets | None = None, kind: socket.SocketKind = socket.SOCK_STREAM
    ) -> None:
        """`sockets` may have one of another process, that listens there already, and gets to know ours."""
        self.path = path
        self._kind = kind
        self._sockets = sockets or NamedSockets()
        try:
            inherited = self._sockets.take(socket_name(path))
            if inherited is not None:
                inherited.settimeout(0)
                self.socket = inherited
            else:
                _make_folder(path.parent)
                self.socket = self._bound()
                self._sockets.use(socket_name(path), self.socket)
            self._inode = _inode(path)
        except OSError as error:
            # One too long for the kernel has no number.
            raise SocketUnavailableError((error.strerror or str(error)).lower()) from error

    def close(self) -> None:
        """Close it, and remove it from the file system unless it is another process's by now, or is handed over."""
        self.socket.close()
        if not self._sockets.are_given and _inode(self.path) == self._inode:
            self.path.unlink(missing_ok=True)

    def _bound(self) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX, self._kind | socket.SOCK_NONBLOCK)
        try:
            os.fchmod(listening.fileno(), 0o600)  # bind(2) makes the file with this mode
            try:
                listening.bind(os.fspath(self.path))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                _remove_dead(self.path, self._kind)
                listening.bind(os.fspath(self.path))
            listening.listen(_QUEUE)
        except BaseException:
            listening.close()
            raise
        return listening


def socket_name(path: Path) -> str:
    """The name of the one at `path` among :class:`~userproxy.sockets.NamedSockets`."""
    return f"unix {path}"


def may_ask(peer: socket.socket) -> bool:
    """Whether the process at the other end is root's or our own user's."""
    _, user, _ = _credentials(peer)
    return user in (0, os.geteuid())


def process_of(peer: socket.socket) -> int:
    """The number of the process at the other end; 0 if it has none in our PID namespace."""
    return _credentials(peer)[0]


def _credentials(peer: socket.socket) -> tuple[int, int, int]:
    """Process, user and group of the other end when it connected or listened."""
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, group = _CREDENTIALS.unpack(credentials)
    return process, user, group


def _make_folder(folder: Path) -> None:
    """Make the folder: open to look at for root's, as those in /run are, and closed to others for a user's."""
    try:
        folder.mkdir(mode=0o755 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise SocketUnavailableError(f"{folder} is not a folder") from None


def _remove_dead(path: Path, kind: socket.SocketKind) -> None:
    """Remove a socket at which nobody listens any more. Raises SocketTakenError where somebody does."""
    before = path.lstat()
    if not stat.S_ISSOCK(before.st_mode):
        raise SocketUnavailableError("there is a file that is no socket")
    with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as asking:
        try:
            asking.connect(os.fspath(path))
        except ConnectionRefusedError:
            pass
        except BlockingIOError:
            raise SocketTakenError("another process listens there") from None
        else:
            raise SocketTakenError(f"process {_credentials(asking)[0]} answers there")
    if _inode(path) == (before.st_dev, before.st_ino):
        path.unlink(missing_ok=True)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
