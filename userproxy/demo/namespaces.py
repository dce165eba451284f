"""System calls that the standard library lacks: give the calling thread namespaces of its own."""

import ctypes
import os

# linux/sched.h and sys/mount.h
_CLONE_NEWNS = 0x0002_0000
_CLONE_NEWNET = 0x4000_0000
_MS_REC = 1 << 14
_MS_PRIVATE = 1 << 18


def enter_new_namespaces() -> None:
    """Move the calling thread, and only that thread, into a new network and a new mount namespace.

    Mounts made from now on stay in it, and ``/run`` is empty: iptables keeps its lock there, and hosts
    must not wait for each other's. unshare(2): CLONE_NEWNS is allowed in a thread because it gives the
    thread a root and working directory of its own. Raises OSError where the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.unshare(_CLONE_NEWNET | _CLONE_NEWNS), "unshare")
    _check(libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None), "mount --make-rprivate /")
    _check(libc.mount(b"tmpfs", b"/run", b"tmpfs", 0, b"mode=755"), "mount -t tmpfs /run")


def _check(result: int, call: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
