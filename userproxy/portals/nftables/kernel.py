"""Our table in the kernel: read, and changed by one transaction at a time.

Over netlink, and not by the program nft. A transaction costs what it changes (one Service among 10,000: about 1 ms, nft
8 ms, and 40 ms where it deletes a range, because it lists the set first); the kernel's number of the rules' generation
says without reading whether anybody has changed them since; what is read back is compared as the bytes that were
written, whatever version of nft would print them how; and no package is needed. Blocking.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from typing import Final

from msgspec import Struct

from userproxy.errors import KernelToolError
from userproxy.model import IPFamily
from userproxy.pace import ThreadPace
from userproxy.portals import netlink
from userproxy.portals.netlink.ruleset import current_generation
from userproxy.portals.nftables.layout import TABLE, Hook
from userproxy.portals.nftables.messages import (
    GET_CHAINS,
    GET_ELEMENTS,
    GET_RULES,
    GET_SETS,
    GET_TABLE,
    NEW_CHAIN,
    NEW_RULE,
    NEW_SET,
    NEW_TABLE,
    Message,
    SetShape,
    element_parts,
    impossible,
    listed_chain,
    listed_elements,
    listed_rule,
    listed_set,
    request,
)

_BATCH_BEGIN: Final = 0x10  # NFNL_MSG_BATCH_BEGIN, linux/netfilter/nfnetlink.h
_BATCH_END: Final = 0x11
_BATCH_GENERATION: Final = 1
_SO_SNDBUFFORCE: Final = 32  # asm-generic/socket.h; Python's socket has no name for it
_SO_RCVBUFFORCE: Final = 33
_RECEIVE_BYTES: Final = 1 << 20
_OVERHEAD: Final = 4096
"""Bytes of a buffer that are not for messages, at most."""
_MESSAGE_OVERHEAD: Final = 24
"""Bytes of a header and of padding, at most."""
_HIGHEST_GENERATION: Final = 0xFFFFFFFF
_MOST_READS: Final = 10

_NO_NFTABLES: Final = {errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EINVAL}
"""What a kernel without nf_tables answers; ENOENT is the answer of one that lacks a part of it."""
_OVERTAKEN: Final = {errno.ERESTART, errno.ENOENT, errno.EEXIST, errno.EBUSY}

_WORD = struct.Struct(">I")


class OvertakenError(KernelToolError):
    """Somebody changed the kernel's rules meanwhile, or what a change is about is not there: nothing was changed."""


class NoNftablesError(KernelToolError):
    """The kernel has no nftables."""


class Present(Struct):
    """What there is of our table, without its elements. `generation` is that of the kernel's rules at that time."""

    generation: int
    exists: bool
    sets: dict[str, SetShape] = {}
    chains: dict[str, Hook | None] = {}
    rules: dict[str, list[bytes]] = {}


class Kernel:
    """The table of one address family in the network namespace of the calling thread. All raise KernelToolError."""

    def __init__(self, family: IPFamily) -> None:
        self._family = family

    def generation(self) -> int:
        """A number that is another one once anybody has changed rules of nftables in this network namespace."""
        with _translated():
            return current_generation()

    def read(self) -> Present:
        """What there is of our table."""
        with _netfilter() as asking:
            for _ in range(_MOST_READS):
                generation = current_generation()
                with suppress(InterruptedError):
                    present = self._read(asking, generation)
                    if current_generation() == generation:
                        return present
        raise OvertakenError("the rules of nftables change faster than they can be read")

    def elements(self, set_name: str) -> list[bytes]:
        """The elements of a set."""
        return [data[begin:end] for data, begin, end in self._elements(set_name)]

    def parts_of_elements(self, set_name: str) -> list[tuple[bytes, bytes, bytes]]:
        """Key, data and comment of the elements of a set, none where there is no such set."""
        return [element_parts(*element) for element in self._elements(set_name)]

    def commit(self, messages: Sequence[Message], generation: int | None = None) -> int:
        """Do all of it or nothing; how many transactions that were.

        That is one, unless this process may not have a buffer for all of it (CAP_NET_ADMIN in a user namespace alone):
        then what is in the parts that were committed stays. Raises OvertakenError where the rules are of another
        `generation`, if one is named; each transaction makes the next one.
        """
        parts = list(_parts(messages, self._room(_size(messages))))
        for number, part in enumerate(parts):
            self._commit(part, None if generation is None else following(generation, number))
        return len(parts)

    def _commit(self, messages: Sequence[Message], generation: int | None) -> None:
        answers = self.send(messages, generation)
        for sequence, code in answers:
            if code:
                step = messages[sequence - 1] if 0 < sequence <= len(messages) else None
                raise _refused(code, step, guarded=generation is not None)
        if all(sequence != len(messages) for sequence, _ in answers):
            raise KernelToolError("the kernel has not said what became of a change of nftables")

    def _room(self, size: int) -> int:
        """How many bytes one transaction may have, of as many as are needed."""
        with _netfilter() as sending:
            return _make_room(sending, size)

    def refusal(self, messages: Sequence[Message]) -> str | None:
        """Why this kernel would not do these steps; None if it would. Nothing is changed.

        All of it is asked for together with a step that cannot be done, so that all of it is taken back.
        """
        for sequence, code in self.send([*messages, impossible(self._family)], None):
            if code and sequence <= len(messages):
                return str(_refused(code, messages[sequence - 1] if sequence else None, guarded=True))
        return None

    def send(
        self, messages: Sequence[Message], generation: int | None = None, over: socket.socket | None = None
    ) -> list[tuple[int, int]]:
        """Do all of it, in one transaction, or nothing; `over` the socket that is to own what is owned.

        Returns the number of each step that is answered, from 1 on, and the error, 0 for none.
        """
        batch = _batch(messages, generation)
        with _netfilter() if over is None else nullcontext(over) as sending:
            _make_room(sending, len(batch))
            sending.send(batch)
            sending.setblocking(False)  # noqa: FBT003 - as the library has it; the kernel has answered all by now
            return list(_answers(sending))

    def _exists(self, asking: socket.socket) -> bool:
        try:
            netlink.get(asking, GET_TABLE, request(self._family))
        except FileNotFoundError:
            return False
        return True

    def _read(self, asking: socket.socket, generation: int) -> Present:
        present = Present(generation, self._exists(asking))
        if not present.exists:
            return present
        for data, begin, end in self._objects(asking, GET_SETS):
            name, shape = listed_set(data, begin, end)
            present.sets[name] = shape
        for data, begin, end in self._objects(asking, GET_CHAINS):
            table, name, hook = listed_chain(data, begin, end)
            if table == TABLE:
                present.chains[name] = hook
        for data, begin, end in self._objects(asking, GET_RULES):
            chain, rule = listed_rule(data, begin, end)
            present.rules.setdefault(chain, []).append(rule)
        return present

    def _objects(self, asking: socket.socket, kind: int, set_name: str = "") -> Iterator[tuple[bytes, int, int]]:
        for data, bodies in netlink.dump(asking, kind, request(self._family, set_name)):
            for begin, end in bodies:
                yield data, begin + netlink.NETFILTER_HEADER_SIZE, end

    def _elements(self, set_name: str) -> list[tuple[bytes, int, int]]:
        """The places of the elements of a set in what the kernel lists, none where there is no such set."""
        with _netfilter() as listing:
            for _ in range(_MOST_READS):
                with suppress(InterruptedError):
                    try:
                        listed = list(self._objects(listing, GET_ELEMENTS, set_name))
                    except FileNotFoundError:
                        return []
                    return _places(listed)
        raise OvertakenError("the rules of nftables change faster than they can be read")


def _places(listed: Iterable[tuple[bytes, int, int]]) -> list[tuple[bytes, int, int]]:
    pace, found = ThreadPace(), []
    for data, begin, end in listed:
        for place in listed_elements(data, begin, end):
            found.append((data, *place))
            pace.keep()
    return found


def following(generation: int, changes: int = 1) -> int:
    """The generation after so many changes to one. The kernel leaves 0 out."""
    return (generation - 1 + changes) % _HIGHEST_GENERATION + 1


def _size(messages: Sequence[Message]) -> int:
    return sum(len(each.body) + _MESSAGE_OVERHEAD for each in messages)


def _parts(messages: Sequence[Message], room: int) -> Iterator[list[Message]]:
    """The messages in their order, as many at a time as there is room for."""
    part: list[Message] = []
    left = room
    for each in messages:
        size = _size([each])
        if part and size > left:
            yield part
            part, left = [], room
        part.append(each)
        left -= size
    if part:
        yield part


def _make_room(sending: socket.socket, size: int) -> int:
    """Have buffers for a transaction of so many bytes, as far as we may; for how many there is room."""
    for forced, usual, wanted in (
        (_SO_RCVBUFFORCE, socket.SO_RCVBUF, _RECEIVE_BYTES),
        (_SO_SNDBUFFORCE, socket.SO_SNDBUF, size + _OVERHEAD),
    ):
        try:
            sending.setsockopt(socket.SOL_SOCKET, forced, wanted)
        except PermissionError:  # it takes CAP_NET_ADMIN in the first user namespace
            sending.setsockopt(socket.SOL_SOCKET, usual, wanted)
    return sending.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - _OVERHEAD


@contextmanager
def _netfilter() -> Iterator[socket.socket]:
    with _translated(), closing(netlink.netlink_socket(netlink.NETFILTER)) as made:
        yield made


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unreachable(error) from error


def _batch(messages: Sequence[Message], generation: int | None) -> bytes:
    """The transaction in bytes; its messages are numbered from 1 on, and the last one asks for an answer."""
    subsystem = struct.pack(">BBH", 0, 0, GET_TABLE >> 8)
    guard = b"" if generation is None else netlink.attribute(_BATCH_GENERATION, _WORD.pack(generation))
    parts = [netlink.message(_BATCH_BEGIN, netlink.REQUEST, subsystem + guard)]
    for sequence, each in enumerate(messages, 1):
        answered = netlink.ACK if sequence == len(messages) else 0
        parts.append(netlink.message(each.kind, netlink.REQUEST | answered | each.flags, each.body, sequence))
    parts.append(netlink.message(_BATCH_END, netlink.REQUEST, subsystem, len(messages) + 1))
    return b"".join(parts)


def _answers(sending: socket.socket) -> Iterator[tuple[int, int]]:
    while True:
        try:
            data = sending.recv(netlink.CHUNK)
        except BlockingIOError:
            return
        for answer, begin, _ in netlink.messages(data):
            if answer == netlink.ERROR:
                yield netlink.sequence_of(data, begin), netlink.error_code(data, begin)


def _refused(code: int, step: Message | None, *, guarded: bool) -> KernelToolError:
    """Why a transaction was refused, as the first `step` that was says it.

    What is not there has been removed by others, unless we would have been told of that first.
    """
    reason = os.strerror(code)
    what = "" if step is None else f" ({step.what})"
    if code in (errno.EPERM, errno.EACCES):
        return _unreachable(OSError(code, reason))
    lacking = {*_NO_NFTABLES, errno.ENOENT} if guarded else _NO_NFTABLES
    if step is not None and step.kind in (NEW_TABLE, NEW_CHAIN, NEW_RULE, NEW_SET) and code in lacking:
        return KernelToolError(
            f"this kernel refuses our table of nftables{what}: {reason}. It takes Linux 5.6 and the modules nf_tables,"
            " nft_chain_nat, nft_nat, nft_ct, nft_fib_ipv4, nft_reject_ipv4 and those of IPv6"
        )
    if code in _OVERTAKEN:
        return OvertakenError(f"the rules of nftables changed while they were written{what}: {reason}")
    return KernelToolError(f"the kernel refuses a change of nftables{what}: {reason}")


def _unreachable(error: OSError) -> KernelToolError:
    if error.errno in (errno.EPERM, errno.EACCES):
        return KernelToolError("nftables can be read and written only with CAP_NET_ADMIN, which this process lacks")
    if error.errno in _NO_NFTABLES:
        return NoNftablesError(f"this kernel has no nftables (module nf_tables): {error.strerror}")
    return KernelToolError(f"the kernel's nftables cannot be reached: {error.strerror or error}")
