"""Which clients a socket at a portal's address lets in, decided by the kernel before userproxy sees a packet.

A classic BPF program on the socket (socket(7), SO_ATTACH_FILTER; instructions: linux/filter.h, linux/bpf_common.h)
looks at a packet's source address and at whether it comes from the host itself. Whom it does not let in gets no answer,
as a DROP rule of netfilter has it.
"""

import ctypes
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network
from typing import Final, TypeAlias

from msgspec import Struct

from userproxy.errors import ObjectError
from userproxy.model import Admission, AdmissionRule, ListenerName

SO_ATTACH_FILTER: Final = 26
"""asm-generic/socket.h"""

SO_DETACH_FILTER: Final = 27
"""asm-generic/socket.h"""

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP_IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP: Final = 0x05  # BPF_JMP | BPF_JA
_RETURN: Final = 0x06  # BPF_RET | BPF_K

_INTERFACE: Final = (-0x1000 + 8) & 0xFFFFFFFF  # SKF_AD_OFF + SKF_AD_IFINDEX
_NETWORK_HEADER: Final = -0x100000  # SKF_NET_OFF
_SOURCE_AT: Final = {4: 12, 6: 8}
"""Where a source address begins in an IPv4 and in an IPv6 header."""

_LOOPBACK: Final = 1
"""Interface number of `lo` in every network namespace; what the host sends to itself comes in there."""

_ALL_OF_IT: Final = 0xFFFFFFFF
_MOST_INSTRUCTIONS: Final = 4096
"""BPF_MAXINSNS."""

_INSTRUCTION: Final = struct.Struct("HBBI")

DROP_EVERYTHING: Final = _INSTRUCTION.pack(_RETURN, 0, 0, 0)
"""The program that lets nobody in."""


_Decision: TypeAlias = tuple[IPv4Network | IPv6Network | None, bool]
"""A network, None for everybody, and whether it is let in. Of several the first counts."""


class _Instruction(Struct, frozen=True):
    code: int
    value: int
    if_true: int = 0
    if_false: int = 0


def admits_everybody(admission: Admission) -> bool:
    """Whether no program is needed."""
    return all(_lets_all_in(rules) for rules in (admission.host, admission.others))


def program(admission: Admission) -> bytes:
    """The instructions that let in whom `admission` lets in, for the packets of one address family.

    Raises ObjectError where they are more than the kernel takes in one program.
    """
    of_host, of_others = _decisions(admission.host), _decisions(admission.others)
    others = list(_section(of_others))
    instructions = others
    if of_host != of_others:
        instructions = [
            _Instruction(_LOAD, _INTERFACE),
            _Instruction(_JUMP_IF_EQUAL, _LOOPBACK, if_true=0, if_false=1),
            _Instruction(_JUMP, len(others)),
            *others,
            *_section(of_host),
        ]
    if len(instructions) > _MOST_INSTRUCTIONS:
        networks = len(of_others) + (len(of_host) if of_host != of_others else 0)
        raise ObjectError(f"{networks} networks are more than a socket filter can tell apart")
    return b"".join(_INSTRUCTION.pack(each.code, each.if_true, each.if_false, each.value) for each in instructions)


def program_for(admission: Admission) -> bytes | None:
    """As :func:`program`, and None where none is needed."""
    return None if admits_everybody(admission) else program(admission)


def attach(sock: socket.SocketType, instructions: bytes) -> None:
    """Have the kernel run a program on what arrives at `sock` from now on. Raises OSError.

    One that is attached already is replaced in one step.
    """
    code = ctypes.create_string_buffer(instructions, len(instructions))
    described = struct.pack("HP", len(instructions) // _INSTRUCTION.size, ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, described)


def detach(sock: socket.SocketType) -> None:
    """Let everybody in again. Raises OSError where no program is attached."""
    sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


def _lets_all_in(rules: Sequence[AdmissionRule]) -> bool:
    first = next((rule for rule in rules if not rule.network or rule.listener is None), None)
    return first is not None and first.listener is not None


def _decisions(rules: Sequence[AdmissionRule]) -> Sequence[_Decision]:
    """Who is let in, by whichever listener: networks that are all let in become as few as can be."""
    found = [(ip_network(rule.network) if rule.network else None, rule.listener is not None) for rule in rules]
    if not all(lets_in for _, lets_in in found):
        return found
    networks = [network for network, _ in found if network is not None]
    if len(networks) < len(found):
        return [(None, True)]
    return [(network, True) for network in collapse_addresses(networks)]  # type: ignore[type-var]  # of one family


def _section(decisions: Sequence[_Decision]) -> Iterator[_Instruction]:
    for network, lets_in in decisions:
        if network is not None:
            yield from _matches(network)
        yield _Instruction(_RETURN, _ALL_OF_IT if lets_in else 0)
        if network is None:
            return
    yield _Instruction(_RETURN, 0)


def _matches(network: IPv4Network | IPv6Network) -> list[_Instruction]:
    """Instructions that skip the one after them unless the source address is in `network`."""
    address, mask = network.network_address.packed, network.netmask.packed
    found: list[_Instruction] = []
    words = [at for at in range(0, len(address), 4) if any(mask[at : at + 4])]
    for position, at in enumerate(words):
        left = len(words) - position - 1
        found += [
            _Instruction(_LOAD, (_NETWORK_HEADER + _SOURCE_AT[network.version] + at) & 0xFFFFFFFF),
            _Instruction(_AND, int.from_bytes(mask[at : at + 4], "big")),
            _Instruction(_JUMP_IF_EQUAL, int.from_bytes(address[at : at + 4], "big"), if_true=0, if_false=3 * left + 1),
        ]
    return found


def sorted_by(admission: Admission, is_host: Callable[[str], bool]) -> Callable[[str], ListenerName | None]:
    """A function that says whose client an address is, None for nobody's; `is_host` says which are the node's own."""
    host, others = (
        [(ip_network(rule.network) if rule.network else None, rule.listener) for rule in rules]
        for rules in (admission.host, admission.others)
    )

    def sort(address: str) -> ListenerName | None:
        client = ip_address(address.partition("%")[0])
        for network, listener in host if is_host(address) else others:
            if network is None or client in network:
                return listener
        return None

    return sort
