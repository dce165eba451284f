"""Both address families side by side, and one alone where there is no other."""

import pytest

from tests.lab.cluster import Lab
from tests.lab.probes import who_answers
from tests.lab.proxy import CONTROL
from tests.lab.rules import rules
from userproxy.addresses import family_of
from userproxy.demo.traffic import fetch, fetch_many
from userproxy.model import IPFamily

pytestmark = pytest.mark.e2e

FAMILIES = (IPFamily.IPV4, IPFamily.IPV6)
FOUR, SIX = ("10.96.0.10", 80), ("fd00:10:96::10", 80)
NODE_PORT = 30080


@pytest.mark.parametrize("addresses", [(FOUR[0], SIX[0]), (SIX[0], FOUR[0])], ids=["IPv4 first", "IPv6 first"])
def test_one_service_in_both_families(lab: Lab, addresses: tuple[str, str]) -> None:
    lab.serve_http()
    lab.manifests.service("web", cluster_ip=addresses, node_port=NODE_PORT)
    lab.manifests.slices("web", lab.pods)
    proxy = lab.node.start_userproxy()
    lab.settle(*FAMILIES)
    for host, address in (
        (lab.client, FOUR),
        (lab.client, SIX),
        (lab.node, FOUR),
        (lab.node, SIX),
        (lab.outside, (lab.node.address, NODE_PORT)),
        (lab.outside, (lab.node.address6, NODE_PORT)),
    ):
        tally = fetch_many(host, address, 30)
        assert (sum(tally.pods.values()), len(tally.pods), tally.failures) == (30, 3, ()), (host.name, address)
        # Each data process takes turns of its own.
        assert max(tally.pods.values()) - min(tally.pods.values()) <= int(CONTROL), (host.name, address)
        # A family's connections are dialled in that family.
        family = family_of(address[0])
        own = host.address6 if family is IPFamily.IPV6 else host.address
        assert set(tally.clients) == {lab.seen_by_pods(family) if host is lab.node else own}
    assert proxy.terminate() == 0
    assert not lab.node.standing()
    assert not [rule for rule in rules(lab.node) if "KUBE-" in rule and "KUBE-IPTABLES-HINT" not in rule]


def test_each_family_has_its_own_endpoints(lab: Lab) -> None:
    lab.serve_http()
    lab.manifests.service("web", cluster_ip=[FOUR[0], SIX[0]])
    lab.manifests.slice("web", lab.pods[:1], family=IPFamily.IPV4)
    lab.manifests.slice("web", lab.pods[1:], family=IPFamily.IPV6)
    lab.node.start_userproxy()
    lab.settle(*FAMILIES)
    assert who_answers(lab.client, FOUR, ["web-1"]) == {"web-1"}
    assert who_answers(lab.client, SIX, ["web-2", "web-3"]) == {"web-2", "web-3"}


def test_with_affinity_a_clients_families_are_two_clients_of_one_service(lab: Lab) -> None:
    lab.serve_http()
    lab.manifests.service("web", cluster_ip=[FOUR[0], SIX[0]], affinity=3600)
    lab.manifests.slices("web", lab.pods)
    lab.node.start_userproxy()
    lab.settle(*FAMILIES)
    for address in (FOUR, SIX):
        first = fetch(lab.client, address).pod
        assert {fetch(lab.client, address).pod for _ in range(6)} == {first}


def test_a_single_stack_service_is_served_in_its_family_alone(lab: Lab) -> None:
    lab.serve_http()
    lab.manifests.service("web", cluster_ip=SIX[0], node_port=NODE_PORT)
    lab.manifests.slices("web", lab.pods)
    lab.node.start_userproxy()
    lab.settle(*FAMILIES)
    assert fetch(lab.client, SIX).pod
    assert fetch(lab.outside, (lab.node.address6, NODE_PORT)).pod
    four = lab.node.standing(families=[IPFamily.IPV4])
    assert not [portal for portal in four if portal.ip == FOUR[0] or portal.port == NODE_PORT]
    with pytest.raises(ConnectionRefusedError):
        fetch(lab.outside, (lab.node.address, NODE_PORT))
    lab.manifests.service("web", cluster_ip=[SIX[0], FOUR[0]], node_port=NODE_PORT)
    lab.settle(*FAMILIES)
    assert fetch(lab.client, FOUR).pod
    assert fetch(lab.outside, (lab.node.address, NODE_PORT)).pod


def test_a_node_without_ipv6_serves_ipv4_and_says_so(lab: Lab) -> None:
    old = lab.add_node("node-2", ipv6=False)
    client = lab.add_pod("old-client", old)
    lab.serve_http()
    lab.manifests.service("web", cluster_ip=[FOUR[0], SIX[0]], node_port=NODE_PORT)
    lab.manifests.slices("web", lab.pods)
    proxy = old.start_userproxy()
    lab.settle(IPFamily.IPV4)
    assert fetch(client, FOUR).pod
    assert fetch(lab.outside, (old.address, NODE_PORT)).pod
    said = [record for record in proxy.records if "IPv6" in str(record)]
    assert len(said) == 1, said
    assert said[0]["level"] in ("info", "warning")
    assert not [record for record in proxy.records if record["level"] == "error"]
    assert proxy.terminate() == 0
