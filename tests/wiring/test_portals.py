"""The removal of portals at a stop."""

import asyncio
from collections.abc import Sequence

from structlog.testing import capture_logs

from userproxy.errors import KernelToolError
from userproxy.model import IPFamily
from userproxy.portals.interface import DriverOptions
from userproxy.portals.none import NoPortals
from userproxy.wiring.portals import remove_portals


class Removable(NoPortals):
    """A driver whose rules are gone once `remove` has returned."""

    def __init__(self, family: IPFamily) -> None:
        super().__init__(DriverOptions(family, "::1" if family is IPFamily.IPV6 else "127.0.0.1"))
        self.removed = False

    async def remove(self) -> list[str]:
        self.removed = True
        return ["a rule"]


class Broken(Removable):
    async def remove(self) -> list[str]:
        raise KernelToolError("iptables-save ended with 4")


class Hung(Removable):
    async def remove(self) -> list[str]:
        await asyncio.Event().wait()
        return []


async def removal(driver: Removable) -> tuple[bool, Removable, Sequence[str]]:
    """What became of IPv6 beside an IPv4 driver, and the reasons that were logged as errors."""
    other = Removable(IPFamily.IPV6)
    with capture_logs() as logs:
        done = await remove_portals([(IPFamily.IPV4, driver), (IPFamily.IPV6, other)], seconds=0.01)
    return done, other, [f"{entry['family']}: {entry['reason']}" for entry in logs if entry["log_level"] == "error"]


async def test_all_families_are_removed() -> None:
    driver = Removable(IPFamily.IPV4)
    done, other, errors = await removal(driver)
    assert (done, driver.removed, other.removed, errors) == (True, True, True, [])


async def test_a_family_that_cannot_be_removed_keeps_no_other_one() -> None:
    done, other, errors = await removal(Broken(IPFamily.IPV4))
    assert (done, other.removed, errors) == (False, True, ["IPv4: iptables-save ended with 4"])


async def test_a_hung_program_delays_a_stop_only_so_long() -> None:
    done, other, errors = await removal(Hung(IPFamily.IPV4))
    assert (done, other.removed, errors) == (False, True, ["IPv4: not done within 0.01 s"])
