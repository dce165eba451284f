"""One userproxy keeps the chains of a node: two would take each other's rules for leftovers, and remove them."""

import os
import socket
import struct
import time
from typing import Final

from userproxy.errors import KernelToolError
from userproxy.model import IPFamily

_CREDENTIALS = struct.Struct("=iII")  # struct ucred, linux/socket.h

_GRACE_SECONDS: Final = 1.0
_LOOK_EVERY: Final = 0.02


class Ownership:
    """The right to write the chains of one address family in the network namespace of the calling thread.

    It is a socket with an abstract name (unix(7)), which belongs to the namespace and goes with its process, however
    that ends.
    """

    def __init__(self, family: IPFamily) -> None:
        self._family = family
        self._name = f"\0userproxy-portals-{family}"
        self._held: socket.socket | None = None
        self._is_others = False

    def take(self) -> None:
        """Have it from now on, if we do not have it yet. Raises KernelToolError where another userproxy has it.

        A process of another user that has the name is no userproxy, and keeps us from nothing. Blocks for up to a
        second when it first finds another one.
        """
        if self._held is not None or self._bind():
            return
        if not self._is_others:
            # Asked once: nobody accepts, so a queue of questions would fill up.
            if not self._holder_is_as_we_are():
                return
            # A killed process goes at once, and a program that it was just starting has its sockets until execve(2).
            deadline = time.monotonic() + _GRACE_SECONDS
            while time.monotonic() < deadline:
                time.sleep(_LOOK_EVERY)
                if self._bind():
                    return
            self._is_others = True
        raise KernelToolError(
            f"another userproxy keeps the {self._family} portals of this node, and there can be but one"
        )

    def release(self) -> None:
        """Let another process have it."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def _bind(self) -> bool:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.bind(self._name)
            made.listen()
        except OSError:
            made.close()
            return False
        self._held, self._is_others = made, False
        return True

    def _holder_is_as_we_are(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(0)
            try:
                asking.connect(self._name)
            except OSError:
                return False
            credentials = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        user: int = _CREDENTIALS.unpack(credentials)[1]
        return user == os.geteuid()
