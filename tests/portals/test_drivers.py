"""The table of portal drivers."""

import os
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from tests.lab.lacking import without_netfilter
from tests.portals.conftest import Network, shell
from tests.portals.netlink.test_conntrack import drop_capabilities
from userproxy.config import PortalMode
from userproxy.model import IPFamily
from userproxy.portals.drivers import DRIVERS, first_usable
from userproxy.portals.interface import DriverOptions


def test_every_value_of_the_flag_names_a_driver() -> None:
    assert {mode.value for mode in PortalMode} - {PortalMode.AUTO} == DRIVERS.keys()


@pytest.mark.parametrize("name", DRIVERS)
async def test_a_driver_is_made_without_looking_at_anything(name: str) -> None:
    driver = DRIVERS[name](DriverOptions(IPFamily.IPV4, "127.0.0.1"))
    assert (driver.name, dict(driver.rule_counts)) == (name, {})
    await driver.close()


@pytest.mark.parametrize(
    ("name", "named"),
    [("iptables", "CAP_NET_ADMIN"), ("nftables", "CAP_NET_ADMIN"), ("local", "CAP_NET_ADMIN"), ("none", "")],
)
def test_what_a_driver_lacks_is_named(network: Network, name: str, named: str) -> None:
    def unprivileged() -> str | None:
        drop_capabilities()
        return DRIVERS[name].unusable(IPFamily.IPV4)

    assert network.run(lambda: DRIVERS[name].unusable(IPFamily.IPV4)) is None
    refusal = network.run(unprivileged)
    assert named in refusal if refusal else not named


def test_auto_takes_the_first_that_works_and_knows_what_the_others_lack(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first() -> tuple[str | None, list[str]]:
        found, reasons = first_usable(IPFamily.IPV4)
        return found.name if found is not None else None, list(reasons)

    capturing = [name for name, driver in DRIVERS.items() if driver.traits.serves_portals]
    assert network.run(first) == (capturing[0], [])
    monkeypatch.setattr(DRIVERS[capturing[0]], "unusable", lambda family: "not today")
    assert network.run(first) == (next(iter(capturing[1:]), None), capturing[:1])
    network.run(drop_capabilities)
    assert network.run(first) == (None, capturing)


def test_without_netfilter_auto_takes_the_driver_that_needs_none_and_knows_why(network: Network) -> None:
    def chosen() -> tuple[str, Mapping[str, str]]:
        without_netfilter()
        found, reasons = first_usable(IPFamily.IPV4)
        assert found is not None
        return found.name, reasons

    name, reasons = network.run(chosen)
    assert (name, list(reasons)) == ("local", ["iptables", "nftables"])
    assert "iptable_nat" in reasons["iptables"]
    assert "nf_tables" in reasons["nftables"]


@pytest.mark.parametrize("family", IPFamily)
def test_trying_leaves_no_trace(network: Network, family: IPFamily) -> None:
    def traces() -> list[str]:
        tables = Path("/proc/thread-self/net/ip_tables_names").read_text()
        return [tables, shell("nft", "list", "ruleset"), shell("ip", "route", "show", "table", "all")]

    before = network.run(traces)
    assert [network.run(partial(driver.unusable, family)) for driver in DRIVERS.values()] == [None] * len(DRIVERS)
    assert network.run(traces) == before


def test_a_variant_whose_nat_tables_cannot_be_made_is_unusable_though_its_programs_are_there(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("iptables-nft-restore", "iptables-legacy-restore"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'nat: Table does not exist' >&2\nexit 3\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    reason = network.run(partial(DRIVERS["iptables"].unusable, IPFamily.IPV4))
    assert reason is not None
    assert "nat: Table does not exist (it takes the kernel's" in reason


def test_a_driver_is_imported_when_it_is_asked_for() -> None:
    program = (
        "import sys; from userproxy.portals.drivers import DRIVERS; DRIVERS['none'];"
        "print([name for name in sys.modules if name.startswith(('userproxy.portals.ip', 'userproxy.portals.nft'))])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"[]\n"
