"""What tests of checks need: a node of their own, and what a check finds there."""

import ctypes
import os
from pathlib import Path

from tests.portals.conftest import Network, network
from userproxy.config import Settings
from userproxy.demo.waiting import eventually
from userproxy.doctor.findings import Check, Outcome, Result

__all__ = ["network"]

_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h


def found(node: Network, check: Check, settings: Settings | None = None) -> list[Outcome]:
    """What a check finds on a node."""
    return node.run(lambda: list(check(settings or Settings())))


def settle(node: Network) -> None:
    """Wait until the kernel has noticed that its links are up: it looks once a second, and what stands changes then."""

    def up() -> bool:
        links = [node.shell("ip", "link", "show", "dev", name) for name in ("eth0", "far0")]
        return all("state UP" in link for link in links) and "linkdown" not in node.shell("ip", "route", "show")

    eventually(up, 30, "links that are up")


def results(outcomes: list[Outcome]) -> list[Result]:
    return [each.result for each in outcomes]


def only(outcomes: list[Outcome], result: Result) -> Outcome:
    """The one outcome of a kind. What is not ok says what to do."""
    (outcome,) = [each for each in outcomes if each.result is result]
    assert bool(outcome.advice) == (result is not Result.OK)
    return outcome


def set_sysctl(node: Network, name: str, value: int) -> None:
    node.run(lambda: Path("/proc/sys/net", name).write_text(str(value)))


def drop(*capabilities: int) -> None:
    """Have the calling thread, and what it starts, do without these."""
    status = Path("/proc/thread-self/status").read_text()
    held = int(status.partition("CapEff:")[2].split()[0], 16) & ~sum(1 << number for number in capabilities)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    low, high = held & 0xFFFFFFFF, held >> 32
    libc = ctypes.CDLL(None, use_errno=True)
    for number in capabilities:
        if libc.prctl(24, number, 0, 0, 0):  # PR_CAPBSET_DROP: root's programs would have it again
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if libc.capset(header, (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
