"""Whether others have changed the legacy tables, of which the kernel tells nobody: they are looked at now and then.

What a table looks like from afar is had without reading it: how many entries it has, how large they are together, and
where its hooks begin. An edit that keeps all that (one rule in place of another of its size) shows in a digest of the
entries, which is taken as often as its cost allows. Layout: linux/netfilter_ipv4/ip_tables.h and its IPv6 counterpart.
"""

import asyncio
import ctypes
import hashlib
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from typing import Final

import structlog
from msgspec import Struct

from userproxy.addresses import IPFamily
from userproxy.portals.iptables.chains import CHAINS
from userproxy.portals.iptables.changes import Change

log = structlog.get_logger()

LOOK_SECONDS: Final = 1.0
_LONGEST_SECONDS: Final = 30.0
_SHARE: Final = 50
"""A digest takes at most one in so many seconds of a core: 75 ms for 40,000 rules."""

_QUICK: Final = 0.002
"""Seconds that a digest may take to be taken beside everything else: a few hundred rules."""

_GET_INFO: Final = 64  # IPT_SO_GET_INFO and IP6T_SO_GET_INFO
_GET_ENTRIES: Final = 65
_INFO: Final = struct.Struct("=32s I 5I 5I I I")  # struct ipt_getinfo: name, hooks, entry points, policies, count, size
_ENTRIES: Final = struct.Struct("@32s I 0Q")  # struct ipt_get_entries, up to its entries


class _Layout(Struct, frozen=True):
    """Of a family's sockets and entries: struct ipt_entry, struct ip6t_entry.

    `next_offset` is where an entry has its length. The bytes from `state` to `rest` are its counters, and what the
    kernel notes while it checks a table.
    """

    family: int
    level: int
    next_offset: int
    state: int
    rest: int


_LAYOUTS: Final = {
    IPFamily.IPV4: _Layout(socket.AF_INET, socket.IPPROTO_IP, 90, 92, 112),
    IPFamily.IPV6: _Layout(socket.AF_INET6, socket.IPPROTO_IPV6, 142, 144, 168),
}


class TableLook(Struct, frozen=True):
    """A table from afar: `shape` is its hooks, `entries` how many it has, `size` their bytes."""

    shape: bytes
    entries: int
    size: int


class Look(Struct, frozen=True):
    """All tables of ours from afar, and the `digest` of their entries, where that was taken."""

    tables: Mapping[str, TableLook]
    digest: bytes | None = None


class Canary:
    """Compares the tables of one family with what they were when we had last read or written them.

    Blocking, for the driver's thread, but for :meth:`watch`.
    """

    def __init__(self, family: IPFamily) -> None:
        self._layout = _LAYOUTS[family]
        self._expected: Look | None = None
        self._digest_due = 0.0
        self._digest_pause = 0.0
        self._digest_seconds = 0.0
        self._suspicious = False
        self._told = False

    def mark(self, *, thorough: bool) -> Look | None:
        """What the tables look like now; None where the kernel does not say, which is logged once.

        With a digest if it is to be `thorough`, or a digest costs next to nothing.
        """
        try:
            with closing(self._socket()) as asking:
                tables = {table: self._info(asking, table) for table in CHAINS}
                digest = self._digest(asking, tables) if thorough or self._digest_seconds < _QUICK else None
                return Look(tables, digest)
        except OSError as error:
            if not self._told:
                log.warning("Changes of legacy tables show no sooner than at the next full sync", reason=str(error))
                self._told = True
            return None

    def verified(self, look: Look | None) -> None:
        """All that we keep was as it should be, read after the tables had this `look`."""
        self._expected, self._suspicious = look, False

    def wrote(self, before: Look | None, change: Change) -> None:
        """We have just written `change` to tables that had the look `before`."""
        after = self.mark(thorough=False)
        if before is None or after is None:
            return
        added = dict.fromkeys(CHAINS, 0)
        for block in change:
            added[block.table] += sum(-1 if edit.command == "-D" else 1 for edit in block.edits)
        ours = all(after.tables[table].entries - before.tables[table].entries == added[table] for table in CHAINS)
        self._suspicious |= _differ(before, self._expected) or not ours
        self._expected = after

    def is_disturbed(self) -> bool:
        """Whether the tables are others than they were after our last sync."""
        if self._expected is None:
            return False
        began = time.monotonic()
        due = began >= self._digest_due
        look = self.mark(thorough=due)
        if look is None:
            return False
        differs = self._suspicious or _differ(look, self._expected)
        if self._expected.digest is None:
            self._expected = Look(self._expected.tables, look.digest)
        if due:
            self._plan_digest(began, differs=differs)
        return differs

    async def watch(
        self, in_thread: Callable[[Callable[[], bool]], Awaitable[bool]], disturbed: Callable[[], None]
    ) -> None:
        """Call `disturbed` whenever a look says so, until cancelled.

        `in_thread` has it done by the driver's thread. Both families look in the same moment, for one wake-up.
        """
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(LOOK_SECONDS - clock() % LOOK_SECONDS)
            if await in_thread(self.is_disturbed):
                disturbed()

    def _plan_digest(self, began: float, *, differs: bool) -> None:
        """Digests differ for ever where a match of somebody's keeps a state: then they are taken ever more seldom."""
        least = _SHARE * self._digest_seconds
        self._digest_pause = max(least, 2 * self._digest_pause) if differs else least
        self._digest_due = began + min(self._digest_pause, _LONGEST_SECONDS)

    def _digest(self, asking: socket.socket, tables: Mapping[str, TableLook]) -> bytes | None:
        """Of all entries of the tables, without what changes by itself; None where they change meanwhile."""
        began = time.monotonic()
        digest = hashlib.blake2b(digest_size=16)
        try:
            for table, seen in tables.items():
                self._add_entries(digest, self._entries(asking, table, seen.size))
        except OSError:
            return None
        self._digest_seconds = time.monotonic() - began
        return digest.digest()

    def _add_entries(self, digest: "hashlib.blake2b", data: memoryview) -> None:
        layout, length = self._layout, struct.Struct("=H").unpack_from
        begin, end = _ENTRIES.size, len(data)
        while begin < end:
            after = begin + length(data, begin + layout.next_offset)[0]
            digest.update(data[begin : begin + layout.state])
            digest.update(data[begin + layout.rest : after])
            if after == begin:
                raise OSError("an entry without a length")
            begin = after

    def _socket(self) -> socket.socket:
        return socket.socket(self._layout.family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)

    def _info(self, asking: socket.socket, table: str) -> TableLook:
        data = bytes(self._ask(asking, _GET_INFO, table.encode(), _INFO.size))
        fields = _INFO.unpack(data)
        return TableLook(data[32:-8], fields[-2], fields[-1])

    def _entries(self, asking: socket.socket, table: str, size: int) -> memoryview:
        return self._ask(asking, _GET_ENTRIES, _ENTRIES.pack(table.encode(), size), _ENTRIES.size + size)

    def _ask(self, asking: socket.socket, option: int, question: bytes, size: int) -> memoryview:
        """getsockopt(2) with a buffer that begins with what is asked for, which Python's own cannot hand over."""
        buffer = ctypes.create_string_buffer(size)
        data = memoryview(buffer).cast("B")
        data[: len(question)] = question
        length = ctypes.c_uint(size)
        if _libc().getsockopt(asking.fileno(), self._layout.level, option, buffer, ctypes.byref(length)):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return data


def _differ(look: Look, other: Look | None) -> bool:
    """Digests count where both have one."""
    if other is None or look.tables != other.tables:
        return True
    return None not in (look.digest, other.digest) and look.digest != other.digest


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
