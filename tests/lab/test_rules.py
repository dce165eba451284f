"""Rules are found in whichever tables they stand."""

import shutil
from collections.abc import Iterator

import pytest

from tests.demo.programs_started import programs_started
from tests.lab.rules import rules
from userproxy.demo.hosts import Host
from userproxy.model import IPFamily

pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture
def host(root: None) -> Iterator[Host]:
    with Host("node") as host:
        yield host


@pytest.mark.parametrize(("family", "program"), [(IPFamily.IPV4, "iptables"), (IPFamily.IPV6, "ip6tables")])
@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_those_of_either_variant(host: Host, variant: str, family: IPFamily, program: str) -> None:
    if not shutil.which(f"{program}-{variant}"):
        pytest.skip(f"needs {program}-{variant}")
    if family is IPFamily.IPV6 and not host.has_ipv6:
        pytest.skip("this kernel has no IPv6")
    assert rules(host) == []
    host.run([f"{program}-{variant}", "-t", "nat", "-N", "KUBE-A"])
    host.run([f"{program}-{variant}", "-t", "nat", "-A", "OUTPUT", "-j", "KUBE-A"])
    assert rules(host, family) == rules(host) == [":KUBE-A - [0:0]", "-A OUTPUT -j KUBE-A"]
    (other,) = set(IPFamily) - {family}
    assert rules(host, other) == []


def test_without_legacy_tables_the_program_that_would_print_them_is_not_run(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    with programs_started(monkeypatch) as started:
        rules(host, IPFamily.IPV4)
    assert started == ["iptables-nft-save"]
