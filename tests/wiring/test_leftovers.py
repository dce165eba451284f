"""What is told of leftovers of other drivers, and which drivers look for any."""

import pytest
from structlog.testing import capture_logs

from tests.portals.conftest import Network, network
from userproxy.model import IPFamily
from userproxy.portals.drivers import DRIVERS
from userproxy.portals.interface import Cleaned, DriverOptions
from userproxy.portals.iptables.driver import IptablesDriver
from userproxy.portals.local.routes import LocalRoutes
from userproxy.proxier.family.options import OthersCleaned
from userproxy.wiring.leftovers import Leftovers

__all__ = ["network"]  # a fixture


def test_who_serves_removes_what_is_left_and_says_so(network: Network) -> None:
    network.run(lambda: LocalRoutes(IPFamily.IPV4).add(["10.96.0.10"]))

    async def scenario() -> tuple[OthersCleaned, OthersCleaned, frozenset[str]]:
        left = Leftovers(IPFamily.IPV4)
        without_lease = await left.clean_up(DRIVERS["none"](DriverOptions(IPFamily.IPV4, "127.0.0.1")))
        assert LocalRoutes(IPFamily.IPV4).standing() == {"10.96.0.10"}
        serving = DRIVERS["nftables"](DriverOptions(IPFamily.IPV4, "192.0.2.10"))
        with_lease = await left.clean_up(serving)
        await serving.close()
        return without_lease, with_lease, LocalRoutes(IPFamily.IPV4).standing()

    with capture_logs() as logs:
        assert network.run_loop(scenario) == (OthersCleaned(), OthersCleaned(removed=True), frozenset())
    assert [entry["what"] for entry in logs if "what" in entry] == ["removed 1 local routes of IPv4"]


def test_what_stays_is_told_once_and_tried_again(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IptablesDriver, "clean_up", lambda family, sparing: Cleaned(failed=("they are locked",)))

    async def scenario() -> list[OthersCleaned]:
        left = Leftovers(IPFamily.IPV4)
        serving = DRIVERS["nftables"](DriverOptions(IPFamily.IPV4, "192.0.2.10"))
        outcomes = [await left.clean_up(serving) for _ in range(3)]
        await serving.close()
        return outcomes

    with capture_logs() as logs:
        assert network.run_loop(scenario) == [OthersCleaned(all_gone=False)] * 3
    assert [entry["reason"] for entry in logs if entry["log_level"] == "warning"] == ["they are locked"]
