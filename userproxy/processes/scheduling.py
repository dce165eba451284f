"""How the kernel's scheduler treats a process that carries traffic, and one that does not (sched(7); EEVDF)."""

import ctypes
import os
import struct
from typing import Final

_CALLS: Final = {
    "x86_64": (314, 315),
    "aarch64": (274, 275),
    "riscv64": (274, 275),
    "ppc64le": (355, 356),
    "s390x": (345, 346),
}
"""The numbers of sched_setattr(2) and sched_getattr(2), for which the C library has no functions, by machine."""

_ATTRIBUTES: Final = struct.Struct("=IIQiIQQQ")
"""``struct sched_attr`` (linux/sched/types.h): size, policy, flags, nice value, priority, runtime, deadline, period."""

_FAIR: Final = frozenset({os.SCHED_OTHER, os.SCHED_BATCH})

SHORT_TURN: Final = 100_000
"""Nanoseconds; the kernel grants no shorter ones."""

LONG_TURN: Final = 100_000_000
"""Nanoseconds; the kernel grants no longer ones."""

_LIBRARY: Final = ctypes.CDLL(None)


def ask_for_short_turns() -> bool:
    """Have this thread, and those that it starts, run for short turns, and therefore sooner once it wakes up.

    From Linux 6.12 on, who wakes up and asks for shorter turns than the one that runs takes the CPU from it, unless it
    has had more than its share. Others keep the CPU for more than a millisecond, for which a client would wait. Shares
    stay as they are. Returns whether the kernel grants it; no privilege is needed.
    """
    return _ask_for(SHORT_TURN)


def ask_for_long_turns() -> bool:
    """Have this thread, and those that it starts, run for long turns, which anybody interrupts who wakes up.

    For one that has much to do and serves nobody: a client or a backend on the same node, which asks for nothing and
    has turns of some milliseconds, would wait for the end of its turn otherwise, also where another CPU is idle. Shares
    stay as they are. Returns what :func:`ask_for_short_turns` does.
    """
    return _ask_for(LONG_TURN)


def turn(process: int) -> int:
    """How long turns of the CPU are that the main thread of a process asks for, in nanoseconds; 0 if nobody tells.

    0 stands for the calling thread.
    """
    found = _attributes(process)
    return 0 if found is None else found[5]


def _attributes(process: int) -> tuple[int, ...] | None:
    numbers, attributes = _CALLS.get(os.uname().machine), ctypes.create_string_buffer(_ATTRIBUTES.size)
    if numbers is None or _LIBRARY.syscall(numbers[1], process, attributes, _ATTRIBUTES.size, 0) != 0:
        return None
    return _ATTRIBUTES.unpack(attributes.raw)


def _ask_for(length: int) -> bool:
    found = _attributes(0)
    if found is None or found[1] not in _FAIR:  # an administrator has decided otherwise
        return False
    asked = ctypes.create_string_buffer(_ATTRIBUTES.pack(*found[:5], length, *found[6:]))
    done: int = _LIBRARY.syscall(_CALLS[os.uname().machine][0], 0, asked, 0)
    return done == 0 and turn(0) == length
