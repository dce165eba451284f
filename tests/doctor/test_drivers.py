"""Which portal drivers work, on nodes where some of them do not."""

import os
from pathlib import Path

import pytest

from tests.doctor.conftest import drop, found, only, results
from tests.lab.lacking import without_netfilter
from tests.portals.conftest import Network, tools_of
from userproxy.config import PortalMode, Settings
from userproxy.doctor.drivers import drivers, nft, variants
from userproxy.doctor.findings import Result
from userproxy.model import IPFamily
from userproxy.portals.host import CAP_NET_ADMIN, CAP_SYS_ADMIN
from userproxy.portals.iptables.variant import Variant, legacy_tables

SOME_RULE = "*filter\n-A INPUT -p tcp -m tcp --dport 1 -j ACCEPT\nCOMMIT\n"
HINT = "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n"


def test_all_work_and_the_first_is_taken(network: Network) -> None:
    outcomes = found(network, drivers)
    assert [each.text for each in outcomes] == [
        "iptables works, and is what is taken",
        "nftables works, too",
        "local works, too",
    ]


def test_without_netfilter_local_is_taken(network: Network) -> None:
    network.run(without_netfilter)
    iptables, nftables, local = found(network, drivers)
    assert results([iptables, nftables, local]) == [Result.WARN, Result.WARN, Result.OK]
    assert iptables.text.startswith("iptables does not work here: ")
    assert nftables.text.startswith("nftables does not work here: ")
    assert local.text == "local works, and is what is taken"


def test_the_one_that_is_asked_for_has_to_work(network: Network) -> None:
    network.run(without_netfilter)
    assert results(found(network, drivers, Settings(portals=PortalMode.NFTABLES))) == [Result.FAIL]
    assert results(found(network, drivers, Settings(portals=PortalMode.LOCAL))) == [Result.OK]
    assert results(found(network, drivers, Settings(portals=PortalMode.NONE))) == [Result.OK]


def test_one_of_them_has_to_work(network: Network) -> None:
    network.run(lambda: drop(CAP_NET_ADMIN))
    outcomes = found(network, drivers)
    assert results(outcomes) == [Result.WARN] * 3 + [Result.FAIL]
    assert outcomes[-1].text == "no driver works here, so no client reaches a portal"


def test_a_trial_that_would_leave_a_legacy_table_is_not_made(network: Network) -> None:
    legacy = tools_of(IPFamily.IPV4, Variant.LEGACY)
    network.shell(legacy.restore, "--noflush", text=HINT)
    before = network.run(lambda: legacy_tables(IPFamily.IPV4))
    network.run(lambda: drop(CAP_SYS_ADMIN))
    assert "not tried" in found(network, drivers)[0].text
    assert network.run(lambda: legacy_tables(IPFamily.IPV4)) == before


def test_the_variant_of_the_node_is_named_with_the_reason(network: Network) -> None:
    legacy = tools_of(IPFamily.IPV4, Variant.LEGACY)
    network.shell(legacy.restore, "--noflush", text=HINT)
    text = only([found(network, variants)[0]], Result.OK).text
    assert text == (
        "IPv4: iptables-legacy is the variant of this node, because kubelet made the chain KUBE-KUBELET-CANARY there"
    )


def test_rules_in_both_variants_are_told(network: Network) -> None:
    for variant in Variant:
        network.shell(tools_of(IPFamily.IPV4, variant).restore, "--noflush", text=SOME_RULE)
    outcome = only(found(network, variants), Result.WARN)
    assert outcome.text.startswith(
        "IPv4: both variants of iptables have rules and chains (nft with 1 and legacy with 1)"
    )


@pytest.fixture
def without_programs(network: Network) -> Network:
    for place in ("/usr/sbin", "/sbin", "/usr/local/sbin"):
        network.shell("mount", "-t", "tmpfs", "none", place) if Path(place).is_dir() else None
    return network


@pytest.mark.parametrize(("mode", "result"), [(PortalMode.IPTABLES, Result.FAIL), (PortalMode.AUTO, Result.WARN)])
def test_iptables_that_is_not_installed_names_the_package(
    without_programs: Network, mode: PortalMode, result: Result
) -> None:
    outcomes = found(without_programs, variants, Settings(portals=mode))
    assert results(outcomes) == [result] * len(outcomes)
    assert "(package iptables)" in outcomes[0].text


def test_nft_is_not_needed(without_programs: Network) -> None:
    assert only(found(without_programs, nft), Result.OK).text == "nft is not installed, and not needed"


@pytest.fixture
def nft_program(network: Network) -> Path:
    """A program that is found as nft."""
    place = Path("/usr/sbin/nft")
    if not place.exists():
        pytest.skip("needs nft, in whose place another program is put")
    network.shell("mount", "-t", "tmpfs", "none", "/mnt")
    program = Path(f"/proc/{network.thread_id}/root/mnt/nft")
    program.touch(0o755)
    network.shell("mount", "--bind", "/mnt/nft", str(place))
    return program


@pytest.mark.parametrize(
    ("version", "guard", "result"),
    [
        ("v1.0.6 (Lester Gooch #5)", True, Result.WARN),
        ("v0.9 (Fearless Fosdick)", True, Result.WARN),
        ("v1.0.6 (Lester Gooch #5)", False, Result.OK),
        ("v1.0.7 (Old Doc Yak)", True, Result.OK),
        ("v1.1.0 (Commodore Bullmoose)", True, Result.OK),
        ("of some sort", True, Result.WARN),
    ],
)
def test_old_versions_of_nft_write_wrong_json_beside_the_guard(
    network: Network, nft_program: Path, version: str, *, guard: bool, result: Result
) -> None:
    network.run(lambda: nft_program.write_text(f"#!/bin/sh\necho 'nftables {version}'\n"))
    os.chmod(nft_program, 0o755)
    only(found(network, nft, Settings(conntrack_guard=guard)), result)
