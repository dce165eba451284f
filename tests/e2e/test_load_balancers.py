"""Load-balancer IPs: who may use them, what stands behind them, and that nothing leads around them."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.manifests import Ingress
from tests.lab.probes import ACCEPTED, DROPPED, SILENCE, Reply, get, try_to_connect
from userproxy.demo.traffic import fetch, fetch_many
from userproxy.demo.waiting import eventually
from userproxy.model import IPFamily

pytestmark = pytest.mark.e2e

FAMILIES = (IPFamily.IPV4, IPFamily.IPV6)
CLUSTER_IPS = ("10.96.0.10", "fd00:10:96::10")
LOAD_BALANCER_IPS = {IPFamily.IPV4: "198.51.100.7", IPFamily.IPV6: "2001:db8:e::7"}
NODE_PORT = 30080
HEALTH_CHECK_PORT = 32000

BOTH = {"outside", "other"}
EVERYBODY = {"outside", "other", "Pod", "host"}

# Addresses: outside 192.0.2.100 and 2001:db8::100, other ...101, the Pod's of 10.244.0.0/16 and fd00:10:244::/48, the
# host itself 192.0.2.10 and 2001:db8::10.
RANGES = {
    # name                      loadBalancerSourceRanges                        who may in IPv4         and in IPv6
    "none":                     ([],                                            EVERYBODY,              EVERYBODY),
    "one address each":         (["192.0.2.100/32", "2001:db8::101/128"],       {"outside"},            {"other"}),
    "a range within another":   (["192.0.2.0/24", "192.0.2.100/31"],            EVERYBODY - {"Pod"},     EVERYBODY),
    "the Pods":                 (["10.244.0.0/16", "fd00:10:244::/48"],         {"Pod"},                {"Pod"}),
    "somebody else":            (["10.0.0.0/9", "2001:db8:1::/48"],             set(),                  set()),
    "host bits and spaces":     ([" 192.0.2.101/31 ", "\t2001:db8::101/127"],   BOTH,                   BOTH),
    "one malformed":            (["192.0.2.100/33", "192.0.2.101/32"],          {"other"},              EVERYBODY),
    "all malformed":            (["everybody"],                                 set(),                  set()),
    "IPv6 alone":               (["2001:db8::100/128"],                         EVERYBODY,              {"outside"}),
    "all of IPv4":              (["192.0.2.100/32", "0.0.0.0/0"],               EVERYBODY,              EVERYBODY),
}  # fmt: skip
"""Without a range of a family everybody may, as with kube-proxy; but a typing error must not open the door."""


def serve_web(lab: Lab, **more: object) -> None:
    arguments = {
        "cluster_ip": CLUSTER_IPS,
        "load_balancer_ips": list(LOAD_BALANCER_IPS.values()),
        "node_port": NODE_PORT,
    }
    lab.manifests.service("web", **{**arguments, **more})  # type: ignore[arg-type] # each test knows its own


def test_source_ranges(lab: Lab) -> None:
    lab.serve_http()
    lab.manifests.slices("web", lab.pods)
    hosts = {"outside": lab.outside, "other": lab.add_outside("other"), "Pod": lab.client, "host": lab.node}
    probes = [(family, name) for family in FAMILIES for name in hosts]

    def outcome(probe: tuple[IPFamily, str]) -> str:
        return try_to_connect(hosts[probe[1]], (LOAD_BALANCER_IPS[probe[0]], 80))

    serve_web(lab)
    lab.node.start_userproxy(*QUICK)
    for case, (ranges, *allowed) in RANGES.items():
        serve_web(lab, source_ranges=ranges)
        lab.settle(*FAMILIES)
        with ThreadPoolExecutor(len(probes)) as threads:
            found = dict(zip(probes, threads.map(outcome, probes), strict=True))
        may = dict(zip(FAMILIES, allowed, strict=True))
        assert found == {probe: ACCEPTED if probe[1] in may[probe[0]] else DROPPED for probe in probes}, case
        # The ranges are for load-balancer IPs alone.
        assert fetch(lab.client, (CLUSTER_IPS[0], 80)).pod
        assert fetch(lab.outside, (lab.node.address6, NODE_PORT)).pod


def test_a_range_with_the_node_in_it_lets_the_load_balancer_ip_itself_in(lab: Lab) -> None:
    """On some clouds the LB IP is an address of the node, so that the node's own packets to it come from it."""
    lab.serve_http()
    address = LOAD_BALANCER_IPS[IPFamily.IPV4]
    lab.node.own(address)
    lab.manifests.slices("web", lab.pods)
    serve_web(lab, source_ranges=["192.0.2.10/32"])
    lab.node.start_userproxy(*QUICK)
    lab.settle()
    with lab.node.connect((address, 80), source=(address, 0)):
        pass
    serve_web(lab, source_ranges=["192.0.2.100/32"])
    lab.settle()
    with pytest.raises(TimeoutError):
        lab.node.connect((address, 80), SILENCE, source=(address, 0))


def test_an_ingress_of_mode_proxy_is_left_alone(lab: Lab) -> None:
    lab.serve_http()
    lab.manifests.slices("web", lab.pods)
    serve_web(lab, load_balancer_ips=[Ingress("198.51.100.7", "Proxy"), Ingress("198.51.100.8", "VIP")])
    lab.node.start_userproxy(*QUICK)
    lab.settle()
    assert not lab.node.standing("198.51.100.7")
    assert fetch(lab.outside, ("198.51.100.8", 80)).pod
    serve_web(lab, load_balancer_ips=["198.51.100.7", Ingress("198.51.100.8", "Proxy")])
    lab.settle()
    assert fetch(lab.outside, ("198.51.100.7", 80)).pod
    assert not lab.node.standing("198.51.100.8")


def test_without_node_ports_of_its_own(lab: Lab) -> None:
    lab.serve_http()
    lab.manifests.slices("web", lab.pods)
    serve_web(lab, node_port=0, allocate_node_ports=False)
    lab.node.start_userproxy(*QUICK)
    lab.settle(*FAMILIES)
    for address in LOAD_BALANCER_IPS.values():
        assert fetch(lab.outside, (address, 80)).pod
    assert not [portal for portal in lab.node.standing() if not portal.ip]


def test_an_external_policy_of_local_keeps_off_node_clients_here(lab: Lab) -> None:
    far = lab.add_second_node()
    lab.serve_http()
    near = lab.pods[:3]
    serve_web(lab, external_policy="Local", health_check_node_port=HEALTH_CHECK_PORT)
    lab.manifests.slices("web", near)
    for node in (lab.node, far):
        node.start_userproxy(*QUICK, "--cluster-cidr", "10.244.0.0/16,fd00:10:244::/48")
    lab.settle(*FAMILIES)
    checks = [
        (node, address, (address, HEALTH_CHECK_PORT))
        for node in (lab.node, far)
        for address in (node.address, node.address6)
    ]
    for node, address, check in checks:
        local = len(near) if node is lab.node else 0
        reply = eventually(lambda: get(lab.outside, check), 30, "the health check answers")  # noqa: B023 -- used at once
        assert reply.status == (200 if local else 503)
        assert reply.headers["X-Load-Balancing-Endpoint-Weight"] == str(local)
        assert reply.body["service"] == {"namespace": "default", "name": "web"}
        assert reply.body["localEndpoints"] == local
        if node is far:
            assert try_to_connect(lab.outside, (address, NODE_PORT)) == DROPPED
    # A Pod appears on the other node: from now on each node sends its clients to its own.
    lab.manifests.slices("web", lab.pods[:4])
    lab.settle(*FAMILIES)
    for _, address, check in checks[2:]:
        reply = eventually(lambda: _healthy(get(lab.outside, check)), 30, "healthy now")  # noqa: B023 -- used at once
        assert reply.headers["X-Load-Balancing-Endpoint-Weight"] == "1"
        tally = fetch_many(lab.outside, (address, NODE_PORT), 200)
        assert (tally.pods, tally.failures) == ({"far-1": 200}, ())
    for load_balancer_ip in LOAD_BALANCER_IPS.values():  # which come to the first node
        tally = fetch_many(lab.outside, (load_balancer_ip, 80), 200)
        assert tally.failures == ()
        assert sorted(tally.pods) == ["web-1", "web-2", "web-3"]
    # A Service that is no load balancer's any more, or whose policy is Cluster, has no health check.
    serve_web(lab, health_check_node_port=0)
    lab.settle(*FAMILIES)
    for _, _, check in checks:
        eventually(lambda: try_to_connect(lab.outside, check) != ACCEPTED, 30, "closed")  # noqa: B023 -- used at once


def _healthy(reply: Reply) -> Reply:
    assert reply.status == 200
    return reply
