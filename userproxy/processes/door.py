"""Where a data process without a control process is found by the next one: a Unix socket beside the admin socket."""

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

_CREDENTIALS: Final = struct.Struct("iII")
"""unix(7), SO_PEERCRED: process, user, group."""


class Door:
    """Listens at a path that begins with `path`. `found` gets each connection of a process of root or our own user."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: str, found: Callable[[socket.socket], None]) -> None:
        """Raises OSError where nothing can listen there."""
        self._loop = loop
        self._found = found
        self._path = Path(f"{path}.data-{os.getpid()}")
        # Nobody is to find it before it listens: it would be taken for that of a process that has died, and be removed.
        hidden = Path(f"{path}.new-{os.getpid()}")
        hidden.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            self._socket.bind(str(hidden))
            hidden.chmod(0o600)
            self._socket.listen(1)
            hidden.rename(self._path)
        except OSError:
            self._socket.close()
            hidden.unlink(missing_ok=True)
            raise
        loop.add_reader(self._socket.fileno(), self._accept)

    def close(self) -> None:
        """Be found no longer."""
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return
        if peer_of(connection)[1]:
            self._found(connection)
        else:
            connection.close()


def doors(path: str) -> Iterator[tuple[int, socket.socket]]:
    """Connections to the data processes that have lost their control process, and the id of each.

    Sockets of those that have died are removed, and those of other users' processes left alone.
    """
    place = Path(path)
    for each in sorted(place.parent.glob(f"{place.name}.data-*")):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            connection.connect(str(each))
        except ConnectionRefusedError:
            each.unlink(missing_ok=True)
        except OSError:
            pass
        else:
            process, ours = peer_of(connection)
            if ours:
                yield process, connection
                continue
        connection.close()


def peer_of(connection: socket.socket) -> tuple[int, bool]:
    """The process at the other end, and whether it is root's or our own user's."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(credentials)
    return process, user in {0, os.geteuid()}
