"""The names of chains, which iptables' nft variant makes among others."""

from functools import partial

from tests.portals.conftest import Network
from userproxy.model import IPFamily
from userproxy.portals.netlink.chains import chain_names


def test_chains_of_all_tables_of_a_family_are_named(network: Network) -> None:
    names = partial(network.run, partial(chain_names, IPFamily.IPV4))
    assert names() == frozenset()
    network.shell("iptables-nft", "-t", "nat", "-N", "KUBE-PORTALS-HOST")
    network.shell("nft", "add", "table", "ip6", "other")
    network.shell("nft", "add", "chain", "ip6", "other", "elsewhere")
    assert "KUBE-PORTALS-HOST" in names()
    assert network.run(partial(chain_names, IPFamily.IPV6)) == {"elsewhere"}
