"""Whether endpoints can see clients' own addresses."""

import pytest

from tests.doctor.conftest import drop, found, only, results, settle
from tests.lab.lacking import without_netfilter
from tests.portals.conftest import Network, with_addresses
from userproxy.addresses import IPFamily
from userproxy.config import PortalMode, Settings
from userproxy.doctor.client_address import client_address, judged
from userproxy.doctor.findings import Result
from userproxy.model import ClientAddress, DirectNetwork
from userproxy.portals.host import CAP_NET_ADMIN, CAP_SYS_ADMIN
from userproxy.portals.return_path.surroundings import Surroundings
from userproxy.portals.return_path.trial import Refusals

POD = DirectNetwork("10.244.1.2/32", "cali1", of_pods=True)
BRIDGED = DirectNetwork("10.244.1.0/24", "cni0", of_pods=True, is_bridge=True)
LAN = DirectNetwork("192.0.2.0/24", "eth0")

SEEN = "endpoints see the node's address instead of the client's"


@pytest.mark.parametrize(
    ("networks", "obstacle", "refused", "result", "text"),
    [
        ((LAN, POD), "", Refusals(), Result.OK, "Pods of this node are behind cali1"),
        ((BRIDGED, POD), "", Refusals(), Result.OK, "Pods of this node are behind cali1, cni0"),
        ((LAN,), "", Refusals(), Result.OK, "there is no link to a Pod of this node yet"),
        ((POD,), "Cilium is here", Refusals(), Result.WARN, f"IPv4: {SEEN}: Cilium is here"),
        ((POD,), "", Refusals("no nft_socket"), Result.WARN, f"IPv4: {SEEN}: no nft_socket"),
        ((BRIDGED, POD), "", Refusals("", "no bridges"), Result.WARN, f"between Pods of cni0 {SEEN}: no bridges"),
        ((POD,), "", Refusals("", "no bridges"), Result.OK, "behind cali1"),
        ((POD,), "", None, Result.WARN, "not tried"),
    ],
)
def test_what_is_said_of_a_host(
    networks: tuple[DirectNetwork, ...], obstacle: str, refused: Refusals | None, result: Result, text: str
) -> None:
    outcome = judged(IPFamily.IPV4, Surroundings(networks, (), obstacle), refused)
    assert (outcome.result, bool(outcome.advice)) == (result, result is not Result.OK)
    assert text in outcome.text


@pytest.fixture
def node(network: Network) -> Network:
    with_addresses(network)
    settle(network)
    network.shell("ip", "link", "add", "cni0", "type", "bridge")
    network.shell("ip", "address", "add", "10.244.1.1/24", "dev", "cni0")
    network.shell("ip", "link", "set", "cni0", "up")
    return network


def test_a_node_is_looked_at_and_nothing_is_changed(node: Network) -> None:
    before = node.shell("ip", "rule"), node.shell("nft", "list", "ruleset"), node.shell("ip", "route", "show")
    outcomes = found(node, client_address)
    assert [each.text for each in outcomes] == [
        "IPv4: endpoints see their clients' addresses; Pods of this node are behind cni0",
        "IPv6: endpoints see their clients' addresses; there is no link to a Pod of this node yet",
    ]
    assert (node.shell("ip", "rule"), node.shell("nft", "list", "ruleset"), node.shell("ip", "route", "show")) == before


def test_where_nobody_may_write_rules_or_has_a_place_to_try_them(node: Network) -> None:
    node.run(lambda: drop(CAP_SYS_ADMIN))
    assert results(found(node, client_address)) == [Result.WARN] * 2
    node.run(lambda: drop(CAP_NET_ADMIN))
    assert "CAP_NET_ADMIN" in only(found(node, client_address), Result.WARN).text


def test_a_kernel_without_netfilter_keeps_the_nodes_address(node: Network) -> None:
    node.run(without_netfilter)
    outcomes = found(node, client_address)
    assert results(outcomes) == [Result.WARN] * 2
    assert all(SEEN in each.text and "nft_socket" in each.advice for each in outcomes)


def test_what_is_not_asked_for_is_no_problem(node: Network) -> None:
    only(found(node, client_address, Settings(portals=PortalMode.NONE)), Result.OK)
    outcomes = found(node, client_address, Settings(client_address=ClientAddress.NODE))
    assert outcomes[0].text.startswith("--client-address node: ")
    assert results(outcomes) == [Result.OK] * 3
