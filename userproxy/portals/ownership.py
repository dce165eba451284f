"""One userproxy keeps the chains of a node: two would take each other's rules for leftovers, and remove them."""

import os
import socket
import struct

from userproxy.errors import KernelToolError
from userproxy.model import IPFamily

_CREDENTIALS = struct.Struct("=iII")  # struct ucred, linux/socket.h


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

        A process of another user that has the name is no userproxy, and keeps us from nothing.
        """
        if self._held is not None:
            return
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.bind(self._name)
            made.listen()
        except OSError:
            made.close()
            # Asked once: nobody accepts, so a queue of questions would fill up.
            self._is_others = self._is_others or self._holder_is_as_we_are()
            if self._is_others:
                raise KernelToolError(
                    f"another userproxy keeps the {self._family} portals of this node, and there can be but one"
                ) from None
        else:
            self._held, self._is_others = made, False

    def release(self) -> None:
        """Let another process have it."""
        if self._held is not None:
            self._held.close()
            self._held = None

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
