"""What a cleanup removes, what it leaves, and what it says."""

import asyncio
import os
from functools import partial
from pathlib import Path

import pytest

from tests.portals.conftest import Network
from tests.portals.iptables.test_driver import kernel, with_foreign_rules
from userproxy.model import IPFamily
from userproxy.portals.cleanup import clean_up_after_others, cleanup_all
from userproxy.portals.drivers import DRIVERS
from userproxy.portals.interface import Cleaned, DriverOptions, PortalDriver
from userproxy.portals.iptables import variant
from userproxy.portals.iptables.chains import CHAINS
from userproxy.portals.iptables.variant import installed, legacy_tables
from userproxy.portals.lease import Lease, LeaseError, Succession
from userproxy.portals.local.routes import LocalRoutes


def test_cleanup_clears_both_families_and_variants(network: Network) -> None:
    every = [tools for family in IPFamily for tools in installed(family)]
    before = {}
    for tools in every:
        before[tools] = with_foreign_rules(network, tools)
        text = "".join(
            f"*{table}\n" + "".join(f":{chain} - [0:0]\n-A {chain} -j RETURN\n" for chain in chains) + "COMMIT\n"
            for table, chains in CHAINS.items()
        )
        network.shell(tools.restore, "--noflush", text=text)
    told = network.run(cleanup_all).said
    assert {tools: kernel(network, tools) for tools in every} == before
    assert len(told) == 7 * len(every)
    for tools in every:
        assert f"{tools.label}, table nat: removed the chain KUBE-PORTALS-HOST with 1 rule" in told
    assert network.run(cleanup_all) == Cleaned()


def test_cleanup_of_a_clean_host_creates_nothing(network: Network) -> None:
    assert network.run(cleanup_all) == Cleaned()
    for family in IPFamily:
        assert network.run(partial(legacy_tables, family)) == frozenset()


@pytest.mark.parametrize("lacking", ["ip6tables", "IPv6"])
def test_cleanup_where_there_is_no_ipv6_cleans_ipv4(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    """Either the programs are missing, or the kernel refuses them."""
    if lacking == "IPv6":
        for name in ("ip6tables-nft-save", "ip6tables-legacy-save", "ip6tables-save"):
            (tmp_path / name).write_text("#!/bin/sh\necho 'Address family not supported by protocol' >&2\nexit 3\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        network.shell("ip6tables-legacy", "-t", "nat", "-N", "KUBE-PORTALS-HOST")
    else:
        for program in Path("/usr/sbin").glob("iptables*"):
            (tmp_path / program.name).symlink_to(program.resolve())
        monkeypatch.setattr(variant, "_SYSTEM_PATHS", str(tmp_path))
        monkeypatch.setenv("PATH", str(tmp_path))
    for tools in installed(IPFamily.IPV4):
        network.shell(tools.restore, "--noflush", text="*nat\n:KUBE-PORTALS-HOST - [0:0]\nCOMMIT\n")
    told = network.run(cleanup_all).said
    assert [sentence for sentence in told if "removed the chain KUBE-PORTALS-HOST" in sentence] == list(told)
    assert len(told) == len(installed(IPFamily.IPV4))


def test_cleanup_passes_over_a_variant_that_the_kernel_lacks(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = tmp_path / "iptables-nft-save"
    lacking.write_text("#!/bin/sh\necho 'Failed to initialize nft: Protocol not supported' >&2\nexit 1\n")
    lacking.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    network.shell("iptables-legacy", "-t", "nat", "-N", "KUBE-PORTALS-HOST")
    cleaned = network.run(cleanup_all)
    (told,), (removed,) = cleaned.absent, cleaned.said
    assert removed == "iptables-legacy, table nat: removed the chain KUBE-PORTALS-HOST with 0 rules"
    assert not cleaned.failed
    assert told.startswith("iptables-nft: left as it is, because it cannot be read: ")
    assert told.endswith("failed with exit status 1: Failed to initialize nft: Protocol not supported")


def test_cleanup_that_cannot_read_tables_has_failed_and_goes_on(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tools in installed(IPFamily.IPV4):
        network.shell(tools.restore, "--noflush", text="*nat\n:KUBE-PORTALS-HOST - [0:0]\nCOMMIT\n")
    refused = tmp_path / "iptables-legacy-save"
    refused.write_text("#!/bin/sh\necho 'Permission denied (you must be root)' >&2\nexit 4\n")
    refused.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    cleaned = network.run(cleanup_all)
    assert cleaned.said == ("iptables-nft, table nat: removed the chain KUBE-PORTALS-HOST with 0 rules",)
    (failed,) = cleaned.failed
    assert failed.startswith("iptables-legacy: left as it is, because it cannot be read: ")


def test_cleanup_leaves_the_rules_of_a_userproxy_that_runs_unless_it_is_forced(network: Network) -> None:
    network.shell("iptables-nft", "-t", "nat", "-N", "KUBE-PORTALS-HOST")
    owner = Lease(IPFamily.IPV6)
    network.run(owner.take)
    with pytest.raises(LeaseError, match="another userproxy keeps the IPv6 portals of this node"):
        network.run(cleanup_all)
    assert "KUBE-PORTALS-HOST" in network.shell("iptables-nft-save")
    assert network.run(partial(cleanup_all, force=True)).said
    assert "KUBE-PORTALS-HOST" not in network.shell("iptables-nft-save")
    owner.release()
    network.shell("iptables-nft", "-t", "nat", "-N", "KUBE-PORTALS-HOST")
    assert network.run(cleanup_all).said
    network.run(Lease(IPFamily.IPV4).take)


def test_cleanup_leaves_the_rules_while_a_stop_still_serves_clients_by_them(network: Network) -> None:
    network.shell("iptables-nft", "-t", "nat", "-N", "KUBE-PORTALS-HOST")

    async def scenario() -> None:
        async with asyncio.TaskGroup() as group:
            leaving = group.create_task(Succession(IPFamily.IPV6).watch(), name="leaving")
            with pytest.raises(LeaseError, match="being stopped still serves clients by its IPv6 portals"):
                await asyncio.to_thread(cleanup_all)
            leaving.cancel()
        assert (await asyncio.to_thread(cleanup_all)).said

    network.run_loop(scenario)


def without_iptables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variant, "_SYSTEM_PATHS", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))


def test_cleanup_without_iptables_names_the_package_and_cleans_the_rest(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network.shell("nft", "add", "table", "ip", "userproxy")
    without_iptables(tmp_path, monkeypatch)
    cleaned = network.run(cleanup_all)
    assert (cleaned.said, cleaned.failed) == (("nftables: removed the table ip userproxy",), ())
    (absent,) = cleaned.absent
    assert absent.startswith("iptables is not installed (package iptables)")


@pytest.mark.parametrize(
    ("command", "left"),
    [("iptables-nft", "KUBE-PORTALS-HOST"), ("ip6tables-nft", "KUBE-PORTALS-HOST"), ("iptables-legacy", "nat")],
)
def test_cleanup_without_iptables_fails_where_rules_of_ours_may_be_left(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, left: str
) -> None:
    network.shell(command, "-t", "nat", "-N", "KUBE-PORTALS-HOST")
    without_iptables(tmp_path, monkeypatch)
    (failed,) = network.run(cleanup_all).failed
    assert "tables is not installed (package iptables)" in failed
    assert failed.endswith(f"cannot be removed without it: {left}")


@pytest.mark.parametrize("serving", ["nftables", "local", "iptables"])
def test_who_serves_removes_what_all_others_have_left_and_nothing_of_its_own(network: Network, serving: str) -> None:
    network.shell("iptables-nft", "-t", "nat", "-N", "KUBE-PORTALS-HOST")
    network.shell("nft", "add", "table", "ip", "userproxy")
    network.run(lambda: LocalRoutes(IPFamily.IPV4).add(["10.96.0.10"]))
    driver: PortalDriver = DRIVERS[serving](DriverOptions(IPFamily.IPV4, "192.0.2.10"))
    cleaned = network.run(lambda: clean_up_after_others(IPFamily.IPV4, driver))
    left = {
        "iptables": "KUBE-PORTALS-HOST" in network.shell("iptables-nft-save"),
        "nftables": "userproxy" in network.shell("nft", "list", "tables"),
        "local": bool(network.run(LocalRoutes(IPFamily.IPV4).standing)),
    }
    assert left == {name: name == serving for name in left}
    assert (len(cleaned.said), cleaned.failed, cleaned.in_use) == (2, (), ())
    network.run(lambda: asyncio.run(driver.close()))


def test_who_serves_with_one_variant_removes_what_is_left_in_the_other(network: Network) -> None:
    network.shell("iptables-nft", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")
    network.shell("iptables-legacy", "-t", "nat", "-N", "KUBE-PORTALS-HOST")

    async def scenario() -> Cleaned:
        driver = DRIVERS["iptables"](DriverOptions(IPFamily.IPV4, "192.0.2.10"))
        try:
            await driver.sync([])
            return await asyncio.to_thread(clean_up_after_others, IPFamily.IPV4, driver)
        finally:
            await driver.close()

    said = network.run(lambda: asyncio.run(scenario())).said
    assert said == ("iptables-legacy, table nat: removed the chain KUBE-PORTALS-HOST with 0 rules",)
    assert "KUBE-PORTALS-HOST" in network.shell("iptables-nft-save")
