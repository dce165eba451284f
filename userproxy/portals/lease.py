"""The lease of a node's portals: only the process that holds it changes them.

Two processes would take each other's rules for leftovers, and remove them. The lease is a Unix socket with an abstract
name (unix(7)). A process that wants it while another one holds it connects to that name, and the end of the connection
says that it is free: its holder has given it up, or has ended in whatever way. A process that has given it up connects,
too, and is told by one byte that its successor's rules stand.
"""

import asyncio
import os
import select
import socket
import struct
import time
from contextlib import suppress
from typing import Final, NamedTuple

import structlog

from userproxy.errors import KernelToolError
from userproxy.model import IPFamily
from userproxy.portals.netlink.sock_diag import inode_of, user_of

log = structlog.get_logger()

_CREDENTIALS = struct.Struct("=iII")  # struct ucred, linux/socket.h

_GRACE_SECONDS: Final = 1.0
_LOOK_EVERY: Final = 0.02
_WATCHED_SECONDS: Final = 0.3
_PAUSE_SECONDS: Final = 1.0
"""After accept(2) has failed, for want of descriptors mostly."""

_WAITS: Final = b"w"
"""From a contender: it is ready to serve, and takes over as soon as it may."""
_STANDS: Final = b"s"
"""From the holder: its rules stand."""


class Holder(NamedTuple):
    """Who has a lease: the user, if the kernel tells, and the inode of its socket, by which /proc names the process."""

    user: int | None
    inode: int


def holder(family: IPFamily) -> Holder | None:
    """Who has the lease of a family in the calling thread's network namespace, unnoticed. Raises OSError."""
    name = _name(family)
    inode = inode_of(name)
    return Holder(user_of(name), inode) if inode is not None else None


def _name(family: IPFamily) -> str:
    return f"userproxy-portals-{family}"


class LeaseError(KernelToolError):
    """Another userproxy has the lease of this node's portals, or is about to."""


class Lease:
    """The right to change the portals of one address family in the network namespace of the calling thread.

    It is a socket with an abstract name (unix(7)), which belongs to the namespace and goes with its process, however
    that ends. A process of another user that has the name is no userproxy, and keeps us from nothing.
    """

    def __init__(self, family: IPFamily) -> None:
        self._family = family
        self._name = _name(family)
        self._held: socket.socket | None = None
        self._is_others = False
        self._given_up = False
        self._contenders: _Contenders | None = None

    @property
    def contended(self) -> bool:
        """Whether another userproxy is ready to serve and waits for us to give it up."""
        return self._contenders is not None and bool(self._contenders.waiting)

    @property
    def socket(self) -> socket.socket | None:
        """What it is, while we have it: another process that gets a copy has it, too, and goes on with it."""
        return self._held

    def adopt(self, descriptor: int) -> None:
        """Have it by the copy of :attr:`socket` that another process has handed to us."""
        made = socket.socket(fileno=descriptor)
        made.settimeout(0)
        self._held, self._is_others, self._given_up = made, False, False

    def take(self) -> None:
        """Have it from now on, if we do not have it yet. Raises LeaseError where another userproxy has it.

        Blocks for up to a second when it first finds another one.
        """
        if self._held is None and not self._bind() and (self._is_others or self._is_still_others()):
            self._is_others = True
            raise LeaseError(
                f"another userproxy keeps the {self._family} portals of this node, and there can be but one"
            )
        self._given_up = False

    def is_watched(self) -> bool:
        """Whether somebody who gave it up still serves clients, and so looks again and again for who has it now.

        For whoever has taken it and hears no contenders. Blocks for a third of a second if there is nobody.
        """
        deadline = time.monotonic() + _WATCHED_SECONDS
        while self._held is not None and (left := deadline - time.monotonic()) > 0:
            if select.select([self._held], [], [], left)[0]:
                with suppress(OSError), self._held.accept()[0] as watching:
                    if _user(watching) == os.geteuid():
                        return True
        return False

    def check(self) -> None:
        """Raises LeaseError from when it is given up until it is taken again: what stands is another one's."""
        if self._given_up:
            raise LeaseError(f"the {self._family} portals of this node are given up, for another userproxy to write")

    async def acquire(self) -> None:
        """Have it, as soon as another userproxy that has it now gives it up or ends; until then it knows that we wait.

        From then on contenders are heard, on the running loop.
        """
        if self._held is None and not self._bind() and self._holder_may_be_as_we_are():
            await self._until_let_go(told=False)
            while not self._bind() and self._holder_may_be_as_we_are():
                await asyncio.sleep(_LOOK_EVERY)
                await self._until_let_go()
        self._given_up = False
        if self._held is not None and self._contenders is None:
            self._contenders = _Contenders(self._held)

    def regain(self) -> bool:
        """Have it again, if no other userproxy has taken it meanwhile; whether that is so."""
        self._given_up = self._held is None and not self._bind() and self._holder_may_be_as_we_are()
        return not self._given_up

    def announce(self) -> None:
        """Tell whoever had it before, now or later, that our rules stand."""
        if self._contenders is not None:
            self._contenders.tell()

    def release(self) -> None:
        """Let another process have it; those that wait for it are told. On the loop's thread where it was acquired."""
        contenders, self._contenders = self._contenders, None
        self._given_up = True
        if contenders is not None:
            contenders.stop_listening()
        if self._held is not None:
            self._held.close()
            self._held = None
        if contenders is not None:
            contenders.let_go()  # only now: they try to have it as soon as they hear this

    def _is_still_others(self) -> bool:
        """Whether another userproxy has it after a moment, too; else it is ours, or another user's.

        A killed process goes at once, and a program that it was just starting has its sockets until execve(2).
        """
        deadline = time.monotonic() + _GRACE_SECONDS
        while self._holder_may_be_as_we_are():
            if time.monotonic() > deadline:
                return True
            time.sleep(_LOOK_EVERY)
            if self._bind():
                return False
        return False

    def _bind(self) -> bool:
        made = _unix_socket()
        if made is None:
            return False
        try:
            made.bind(f"\0{self._name}")
            made.listen()
        except OSError:
            made.close()
            return False
        made.settimeout(0)
        self._held, self._is_others = made, False
        return True

    def _holder_may_be_as_we_are(self) -> bool:
        return user_of(self._name) in (None, os.geteuid())

    async def _until_let_go(self, *, told: bool = True) -> None:
        """Return once it may be free, at once where its holder cannot be reached."""
        asking = _connection_to(self._name)
        if asking is None:
            return
        with asking:
            try:
                asking.send(_WAITS)
                if not told:
                    text = "Another userproxy keeps the portals of this node: waiting for its end"
                    log.info(text, family=self._family)
                while await asyncio.get_running_loop().sock_recv(asking, 1):
                    pass
            except OSError:
                pass  # the holder has gone without reading what we sent


class Succession:
    """What becomes of a lease that was given up: `taken` by another userproxy, whose rules `stand`."""

    def __init__(self, family: IPFamily) -> None:
        self._name = _name(family)
        self.taken = False
        self.stands = False

    async def watch(self) -> None:
        """Keep both true until cancelled."""
        while True:
            successor = _connection_to(self._name)
            if successor is not None:
                with successor:
                    await self._listen(successor)
            await asyncio.sleep(_LOOK_EVERY)

    async def _listen(self, successor: socket.socket) -> None:
        if _user(successor) != os.geteuid():
            return
        self.taken = True
        try:
            while await asyncio.get_running_loop().sock_recv(successor, 1) == _STANDS:
                self.stands = True
        except OSError:
            pass
        self.taken = self.stands = False


class _Contenders:
    """The connections of those who want what we have, or had it before."""

    def __init__(self, listening: socket.socket) -> None:
        self.waiting: set[socket.socket] = set()
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._descriptor = listening.fileno()
        self._all: set[socket.socket] = set()
        self._stands = False
        self._closed = False
        self._listen()

    def tell(self) -> None:
        """Say that our rules stand, to those who are connected and all who will be."""
        if not self._stands:
            self._stands = True
            for contender in list(self._all):
                self._say_so(contender)

    def stop_listening(self) -> None:
        self._closed = True
        self._loop.remove_reader(self._descriptor)

    def let_go(self) -> None:
        for contender in list(self._all):
            self._drop(contender)

    def _listen(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._descriptor, self._accept)

    def _accept(self) -> None:
        try:
            contender, _ = self._listening.accept()
        except BlockingIOError:
            return
        except OSError:
            self._loop.remove_reader(self._descriptor)
            self._loop.call_later(_PAUSE_SECONDS, self._listen)
            return
        if _user(contender) != os.geteuid():
            contender.close()
            return
        contender.settimeout(0)
        self._all.add(contender)
        self._loop.add_reader(contender.fileno(), self._read, contender)
        if self._stands:
            self._say_so(contender)

    def _read(self, contender: socket.socket) -> None:
        try:
            said = contender.recv(1)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if said == _WAITS:
            self.waiting.add(contender)
        elif not said:
            self._drop(contender)

    def _say_so(self, contender: socket.socket) -> None:
        try:
            contender.send(_STANDS)
        except OSError:
            self._drop(contender)

    def _drop(self, contender: socket.socket) -> None:
        self._all.discard(contender)
        self.waiting.discard(contender)
        self._loop.remove_reader(contender.fileno())
        contender.close()


def _connection_to(name: str) -> socket.socket | None:
    """A non-blocking connection to the holder of an abstract name; None where none can be had now."""
    made = _unix_socket()
    if made is None:
        return None
    made.settimeout(0)
    try:
        made.connect(f"\0{name}")
    except OSError:
        made.close()
        return None
    return made


def _unix_socket() -> socket.socket | None:
    """None while no descriptor is left, which a hog of connections may have brought about."""
    try:
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError:
        return None


def _user(peer: socket.socket) -> int:
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user: int = _CREDENTIALS.unpack(credentials)[1]
    return user
