"""Runs a program as if its kernel had no netfilter: ``python -m tests.lab.no_netfilter PROGRAM ARGUMENT...``.

A seccomp filter answers what such a kernel answers, to the program and to all that it starts: there are no netlink
sockets of netfilter (nf_tables, conntrack), and iptables' socket options and SO_ORIGINAL_DST are unknown. Everything
else is as it is. Numbers: linux/seccomp.h, linux/audit.h, linux/bpf_common.h.
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from typing import Final, NamedTuple

_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER_AT: Final = 0
_ARGUMENTS_AT: Final = 16
"""Where in struct seccomp_data the first of six arguments of 8 bytes is."""

_SYSCALLS: Final = {"x86_64": (41, 54, 55), "aarch64": (198, 208, 209)}
"""socket, setsockopt, getsockopt."""

_AF_NETLINK: Final = 16
_NETLINK_NETFILTER: Final = 12
_FIRST_OPTION: Final = 64
"""IPT_SO_SET_REPLACE and IP6T_SO_SET_REPLACE; SO_ORIGINAL_DST is 80."""
_LAST_OPTION: Final = 83
_LEVELS: Final = (0, 41)
"""SOL_IP and SOL_IPV6. Of the latter, options from 64 to 82 have other meanings, too: only iptables' are refused."""


class _Instruction(NamedTuple):
    code: int
    if_true: int
    if_false: int
    value: int


def _argument(position: int) -> _Instruction:
    return _Instruction(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * position)


def _program() -> list[_Instruction]:
    opening, setting, getting = _SYSCALLS[platform.machine()]
    allow = _Instruction(_RETURN, 0, 0, _ALLOW)
    refused = [_Instruction(_RETURN, 0, 0, _ERRNO | number) for number in (errno.EPROTONOSUPPORT, errno.ENOPROTOOPT)]
    sockets = [
        _argument(0),
        _Instruction(_EQUAL, 0, 3, _AF_NETLINK),
        _argument(2),
        _Instruction(_EQUAL, 0, 1, _NETLINK_NETFILTER),
        refused[0],
        allow,
    ]
    options = [
        _argument(1),
        _Instruction(_EQUAL, 0, 5, _LEVELS[0]),
        _argument(2),
        _Instruction(_AT_LEAST, 0, 2, _FIRST_OPTION),
        _Instruction(_AT_LEAST, 1, 0, _LAST_OPTION + 1),
        refused[1],
        allow,
        _Instruction(_EQUAL, 0, 4, _LEVELS[1]),
        _argument(2),
        _Instruction(_EQUAL, 1, 0, _FIRST_OPTION),
        _Instruction(_EQUAL, 0, 1, _FIRST_OPTION + 1),
        refused[1],
        allow,
    ]
    return [
        _Instruction(_LOAD, 0, 0, _NUMBER_AT),
        _Instruction(_EQUAL, 2, 0, setting),
        _Instruction(_EQUAL, 1, 0, getting),
        _Instruction(_EQUAL, len(options), len(options) + len(sockets), opening),
        *options,
        *sockets,
        allow,
    ]


def forbid_netfilter() -> None:
    """Have this process and all that it starts do without, from now on. Raises OSError."""
    code = b"".join(struct.pack("HBBI", *each) for each in _program())
    kept = ctypes.create_string_buffer(code, len(code))
    described = ctypes.create_string_buffer(struct.pack("HP", len(code) // 8, ctypes.addressof(kept)))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_PR_SET_NO_NEW_PRIVS, 1, 0), (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, described)):
        if libc.prctl(*arguments, 0, 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    forbid_netfilter()
    os.execvp(sys.argv[1], sys.argv[1:])
