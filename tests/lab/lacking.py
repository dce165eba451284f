"""A kernel without netfilter, as far as a process can tell: system calls that need it are refused (seccomp(2)).

As a program, ``python -m tests.lab.lacking COMMAND...`` runs a command so.
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterable

import pytest

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS, linux/bpf_common.h
_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN = 0x06
_ALLOW = 0x7FFF0000  # SECCOMP_RET_ALLOW, linux/seccomp.h
_REFUSE = 0x00050000  # SECCOMP_RET_ERRNO
_NUMBER, _ARCH = 0, 4  # struct seccomp_data
_ARGUMENTS = (16, 24, 32)
_X86_64 = 0xC000003E
_SOCKET, _SETSOCKOPT, _GETSOCKOPT = 41, 54, 55  # asm/unistd_64.h
_NETLINK, _NETFILTER, _SOCK_DIAG = 16, 12, 4
_LEVELS = (0, 41)  # SOL_IP, SOL_IPV6
_IPTABLES = (64, 65, 80)  # IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES and those that set; SO_ORIGINAL_DST


Rule = tuple[list[tuple[int, int]], int]
"""Conditions that must all hold, a place and a value each; and an error number."""


def _no_netlink(protocol: int) -> Rule:
    return ([(_NUMBER, _SOCKET), (_ARGUMENTS[0], _NETLINK), (_ARGUMENTS[2], protocol)], errno.EPROTONOSUPPORT)


def _program(rules: Iterable[Rule]) -> bytes:
    """The filter: one rule after the other."""
    steps: list[tuple[int, int, int, int]] = []
    for conditions, error in rules:
        left = 2 * len(conditions) + 1
        for place, value in ((_ARCH, _X86_64), *conditions):
            steps += [(_LOAD, 0, 0, place), (_EQUAL, 0, left, value)]
            left -= 2
        steps.append((_RETURN, 0, 0, _REFUSE | error))
    steps.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def without_netfilter() -> None:
    """Have this thread, and what it starts, find no netfilter from now on."""
    _refuse(
        [
            _no_netlink(_NETFILTER),
            *(
                ([(_NUMBER, call), (_ARGUMENTS[1], level), (_ARGUMENTS[2], option)], errno.ENOPROTOOPT)
                for call in (_SETSOCKOPT, _GETSOCKOPT)
                for level in _LEVELS
                for option in _IPTABLES
            ),
        ]
    )


def without_lists_of_sockets() -> None:
    """Have this thread, and what it starts, find no inet_diag from now on."""
    _refuse([_no_netlink(_SOCK_DIAG)])


def _refuse(rules: Iterable[Rule]) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("system calls have other numbers here")
    program = ctypes.create_string_buffer(_program(rules))
    steps = struct.pack("@HP", (len(program) - 1) // 8, ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.c_char_p(steps), 0, 0):  # NO_NEW_PRIVS, SET_SECCOMP
        raise OSError(ctypes.get_errno(), "the filter is refused")


if __name__ == "__main__":
    without_netfilter()
    os.execv(sys.argv[1], sys.argv[1:])
