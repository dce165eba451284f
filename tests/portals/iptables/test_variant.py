import shutil
from functools import partial
from pathlib import Path

import pytest

from tests.portals.conftest import Network
from userproxy.errors import KernelToolError
from userproxy.model import IPFamily
from userproxy.portals.iptables.variant import Tools, Variant, detect, installed, legacy_tables

MANGLE_CANARY = "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n"
ONE_RULE = "*filter\n-A FORWARD -s 10.0.0.0/8 -j ACCEPT\nCOMMIT\n"
LEFT_OVER = "*nat\n:KUBE-PORTALS-HOST - [0:0]\nCOMMIT\n"


@pytest.fixture
def both(network: Network) -> tuple[Network, dict[Variant, Tools]]:
    found = {tools.variant: tools for tools in installed(IPFamily.IPV4)}
    if len(found) < len(Variant):
        pytest.skip("needs both variants of iptables")
    return network, found


@pytest.mark.parametrize(
    ("written", "expected", "reason"),
    [
        ([(Variant.LEGACY, MANGLE_CANARY)], Variant.LEGACY, "kubelet made the chain KUBE-KUBELET-CANARY"),
        ([(Variant.NFT, MANGLE_CANARY)], Variant.NFT, "kubelet made"),
        ([(Variant.LEGACY, MANGLE_CANARY), (Variant.NFT, ONE_RULE * 2)], Variant.LEGACY, "kubelet made"),
        ([(Variant.LEGACY, MANGLE_CANARY), (Variant.NFT, MANGLE_CANARY)], Variant.NFT, "kubelet made"),
        ([(Variant.LEGACY, ONE_RULE)], Variant.LEGACY, "more rules and chains than the other one"),
        ([(Variant.LEGACY, ONE_RULE), (Variant.NFT, ONE_RULE * 2)], Variant.NFT, "more rules and chains"),
        ([(Variant.LEGACY, LEFT_OVER)], Variant.LEGACY, "more rules and chains"),
        ([(Variant.NFT, LEFT_OVER)], Variant.NFT, "more rules and chains"),
    ],
)
def test_the_kernel_decides(
    both: tuple[Network, dict[Variant, Tools]], written: list[tuple[Variant, str]], expected: Variant, reason: str
) -> None:
    network, found = both
    for variant, text in written:
        network.shell(found[variant].restore, "--noflush", text=text)
    chosen = network.run(lambda: detect(IPFamily.IPV4))
    assert chosen.variant is expected
    assert reason in chosen.reason


def test_on_a_fresh_node_the_version_decides(both: tuple[Network, dict[Variant, Tools]]) -> None:
    network, _ = both
    expected = Variant.NFT if "nf_tables" in network.shell("iptables", "--version") else Variant.LEGACY
    chosen = network.run(lambda: detect(IPFamily.IPV4))
    assert chosen.variant is expected
    assert "--version" in chosen.reason


def test_looking_creates_no_table(both: tuple[Network, dict[Variant, Tools]]) -> None:
    network, _ = both
    network.run(lambda: detect(IPFamily.IPV4))
    assert network.run(lambda: legacy_tables(IPFamily.IPV4)) == frozenset()
    assert network.shell("nft", "list", "tables") == ""


@pytest.mark.parametrize("family", list(IPFamily))
def test_the_legacy_tables_of_a_family_are_its_own(network: Network, family: IPFamily) -> None:
    tools = next((found for found in installed(family) if found.variant is Variant.LEGACY), None)
    if tools is None:
        pytest.skip(f"needs the legacy variant of iptables for {family}")
    network.shell(tools.restore, "--noflush", text=MANGLE_CANARY)
    assert {each: network.run(partial(legacy_tables, each)) for each in IPFamily} == {
        each: frozenset({"mangle"} if each is family else ()) for each in IPFamily
    }
    chosen = network.run(lambda: detect(family))
    assert (chosen.family, chosen.variant) == (family, Variant.LEGACY)
    other = next(each for each in IPFamily if each is not family)
    assert "kubelet" not in network.run(lambda: detect(other)).reason


def test_programs_are_found_on_the_path_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("iptables-nft-save", "iptables-nft-restore"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    nft = next(found for found in installed(IPFamily.IPV4) if found.variant is Variant.NFT)
    assert (nft.save, nft.restore) == (f"{tmp_path}/iptables-nft-save", f"{tmp_path}/iptables-nft-restore")
    monkeypatch.delenv("PATH")
    assert [found for found in installed(IPFamily.IPV4) if found.save.startswith(str(tmp_path))] == []


@pytest.mark.parametrize("variant", list(Variant))
def test_a_host_with_plain_programs_only(network: Network, tmp_path: Path, variant: Variant) -> None:
    real = Path(next(tools.save for tools in installed(IPFamily.IPV4) if tools.variant is variant)).resolve()
    shutil.copy2(real, tmp_path)
    for name in ("iptables", "iptables-save", "iptables-restore"):
        (tmp_path / name).symlink_to(real.name)
    as_system_programs(network, tmp_path)
    chosen = network.run(lambda: detect(IPFamily.IPV4))
    assert (chosen.variant, Path(chosen.save).name) == (variant, "iptables-save")
    assert chosen.reason == "it is the only one that works here"


def test_no_iptables_is_one_sentence(network: Network, tmp_path: Path) -> None:
    as_system_programs(network, tmp_path)
    with pytest.raises(
        KernelToolError, match=r"^iptables is not installed \(package iptables\): no iptables-nft-save, "
    ):
        network.run(lambda: detect(IPFamily.IPV4))


def test_a_variant_that_does_not_run_is_not_taken(network: Network, tmp_path: Path) -> None:
    for name in ("iptables-nft-save", "iptables-nft-restore"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'Failed to initialize nft: Protocol not supported' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    as_system_programs(network, tmp_path)
    with pytest.raises(KernelToolError, match=r"iptables-nft-save can read this kernel's tables"):
        network.run(lambda: detect(IPFamily.IPV4))


def as_system_programs(network: Network, directory: Path) -> None:
    """Puts `directory` where this network's programs look for iptables."""
    network.shell("mount", "--bind", str(directory), "/usr/sbin")
