"""What is seen of legacy tables without reading them, in real namespaces."""

import socket

import pytest

from tests.portals.conftest import Network, shell
from userproxy.addresses import SOCKET_FAMILIES, IPFamily
from userproxy.portals.iptables.canary import Canary
from userproxy.portals.iptables.changes import Edit, TableChange

PROGRAMS = {IPFamily.IPV4: "iptables-legacy", IPFamily.IPV6: "ip6tables-legacy"}

families = pytest.mark.parametrize("family", IPFamily)


def tell(family: IPFamily, command: str) -> None:
    shell(PROGRAMS[family], "-w", "5", *command.split())


def verified(family: IPFamily) -> Canary:
    """One that knows tables with a rule each."""
    tell(family, "-t nat -A OUTPUT -p tcp --dport 1 -j RETURN")
    tell(family, "-t filter -A INPUT -p tcp --dport 1 -j RETURN")
    canary = Canary(family)
    assert not canary.is_disturbed(), "before anything was read"
    canary.verified(canary.mark(thorough=True))
    assert not canary.is_disturbed()
    return canary


@families
@pytest.mark.parametrize(
    "command",
    [
        "-t nat -F",
        "-t nat -A OUTPUT -j RETURN",
        "-t nat -N SOMEBODYS",
        "-t filter -P FORWARD DROP",
        "-t nat -R OUTPUT 1 -p tcp --dport 2 -j RETURN",
        "-t filter -R INPUT 1 -p tcp --dport 1 -j DROP",
    ],
)
def test_every_edit_is_noticed_until_it_was_looked_at(
    network: Network, monkeypatch: pytest.MonkeyPatch, family: IPFamily, command: str
) -> None:
    monkeypatch.setattr("userproxy.portals.iptables.canary._SHARE", 0)  # on a busy machine a digest would be too dear

    def work() -> list[bool]:
        canary = verified(family)
        tell(family, command)
        noticed = [canary.is_disturbed(), canary.is_disturbed()]
        canary.verified(canary.mark(thorough=True))
        return [*noticed, canary.is_disturbed()]

    assert network.run(work) == [True, True, False]


@families
def test_packets_that_are_counted_are_no_edit(network: Network, family: IPFamily) -> None:
    def work() -> bool:
        tell(family, "-t filter -A OUTPUT -m limit --limit 5/s -j RETURN")
        canary = verified(family)
        with socket.socket(SOCKET_FAMILIES[family], socket.SOCK_DGRAM) as sending:
            sending.sendto(b"?", ("::1" if family is IPFamily.IPV6 else "127.0.0.1", 9))
        counted = shell(PROGRAMS[family], "-t", "filter", "-nvxL", "OUTPUT")
        assert int(counted.splitlines()[2].split()[0]) > 0
        return canary.is_disturbed()

    assert not network.run(work)


def change(command: str) -> tuple[TableChange, ...]:
    return (TableChange("nat", edits=(Edit("-A", "OUTPUT", command),)),)


def test_what_we_wrote_is_no_edit_of_others(network: Network) -> None:
    def work() -> bool:
        canary = verified(IPFamily.IPV4)
        before = canary.mark(thorough=False)
        tell(IPFamily.IPV4, "-t nat -A OUTPUT -p tcp --dport 3 -j RETURN")
        canary.wrote(before, change("-p tcp --dport 3 -j RETURN"))
        return canary.is_disturbed()

    assert not network.run(work)


@pytest.mark.parametrize("before_us", [True, False])
def test_what_others_wrote_beside_us_is(network: Network, before_us: bool) -> None:
    def work() -> bool:
        canary = verified(IPFamily.IPV4)
        if before_us:
            tell(IPFamily.IPV4, "-t nat -A OUTPUT -p tcp --dport 4 -j RETURN")
        before = canary.mark(thorough=False)
        tell(IPFamily.IPV4, "-t nat -A OUTPUT -p tcp --dport 3 -j RETURN")
        if not before_us:
            tell(IPFamily.IPV4, "-t nat -A OUTPUT -p tcp --dport 4 -j RETURN")
        canary.wrote(before, change("-p tcp --dport 3 -j RETURN"))
        return canary.is_disturbed()

    assert network.run(work)


def test_where_the_kernel_says_nothing_nothing_is_noticed(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("userproxy.portals.iptables.canary._GET_INFO", 99)

    def work() -> bool:
        canary = Canary(IPFamily.IPV4)
        canary.verified(canary.mark(thorough=True))
        tell(IPFamily.IPV4, "-t nat -F")
        return canary.is_disturbed()

    assert not network.run(work)
