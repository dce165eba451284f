"""The probes against rules and servers that need no userproxy."""

from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException

import pytest

from tests.lab.cluster import Lab
from tests.lab.probes import (
    ACCEPTED,
    DROPPED,
    REFUSED,
    KeptConnection,
    get,
    refuses_datagrams,
    refuses_the_first_syn,
    try_to_connect,
    who_answers,
)
from tests.lab.rules import local_ports, rules
from userproxy.model import IPFamily

pytestmark = pytest.mark.e2e

COMMANDS = {IPFamily.IPV4: "iptables-nft", IPFamily.IPV6: "ip6tables-nft"}
VIPS = {IPFamily.IPV4: ("10.96.0.1", "10.96.0.2"), IPFamily.IPV6: ("fd00:10:96::1", "fd00:10:96::2")}


@pytest.mark.parametrize("family", IPFamily)
def test_refused_and_dropped_look_different_from_a_pod_and_from_the_node_itself(lab: Lab, family: IPFamily) -> None:
    refused, dropped = VIPS[family]
    for chain in ("FORWARD", "OUTPUT"):
        rule = [COMMANDS[family], "-A", chain, "-d", refused]
        lab.node.run([*rule, "-p", "udp", "-j", "REJECT"])
        # An ICMPv6 message that comes before connect() has let go of its socket is lost (LockDroppedIcmps).
        lab.node.run([*rule, "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"])
        lab.node.run([COMMANDS[family], "-A", chain, "-d", dropped, "-j", "DROP"])
    for host in (lab.client, lab.node):
        assert try_to_connect(host, (refused, 80)) == REFUSED
        assert refuses_the_first_syn(host, (refused, 80))
        assert not refuses_the_first_syn(host, (dropped, 80))
        assert try_to_connect(host, (dropped, 80)) == DROPPED
        assert refuses_datagrams(host, (refused, 80))
        assert not refuses_datagrams(host, (dropped, 80))


@pytest.mark.parametrize("family", IPFamily)
def test_a_refusal_of_the_second_syn_is_told_from_one_of_the_first(lab: Lab, family: IPFamily) -> None:
    refused, _ = VIPS[family]
    rule = [COMMANDS[family], "-A", "FORWARD", "-d", refused, "-p", "tcp"]
    lab.node.run([*rule, "-m", "statistic", "--mode", "nth", "--every", "2", "--packet", "0", "-j", "DROP"])
    lab.node.run([*rule, "-j", "REJECT", "--reject-with", "tcp-reset"])
    assert not refuses_the_first_syn(lab.client, (refused, 80))
    assert try_to_connect(lab.client, (refused, 80)) == REFUSED


def test_pods_answer_and_kept_connections_end_with_them(lab: Lab) -> None:
    servers = lab.serve_http()
    pod = lab.pods[0]
    for address in (pod.address, pod.address6):
        assert try_to_connect(lab.client, (address, 8080)) == ACCEPTED
        assert who_answers(lab.client, (address, 8080), ["web-1"]) == {"web-1"}
    assert who_answers(lab.client, (pod.address, 8080), ["web-1", "web-2"], most=10) == {"web-1"}
    assert get(lab.client, (pod.address, 8080)).body["pod"] == "web-1"
    with KeptConnection(lab.client, (pod.address, 8080)) as kept:
        assert kept.ask() == kept.ask()
        servers["web-1"].close()
        for _ in range(2):  # however often: it makes no other connection
            with pytest.raises((OSError, HTTPException)):
                kept.ask()


def test_local_ports_are_those_that_rules_lead_to(lab: Lab) -> None:
    for number, family in enumerate(IPFamily, 1):
        vip = VIPS[family][0]
        redirect = ["-d", vip, "-p", "tcp", "--dport", "80", "-j", "REDIRECT", "--to-ports", str(40000 + number)]
        lab.node.run([COMMANDS[family], "-t", "nat", "-A", "PREROUTING", *redirect])
        assert local_ports(lab.node, f"-d {vip}/", family) == {40000 + number}
        assert local_ports(lab.node, f"-d {vip}/", family, "udp") == set()
    assert len(rules(lab.node)) == 2
    assert len(rules(lab.node, IPFamily.IPV6)) == 1


def test_clients_of_one_host_do_not_wait_for_each_other(lab: Lab) -> None:
    """The tables of flows are asked at once: silence of one must not cost the others their time."""
    lab.node.run(["iptables-nft", "-A", "FORWARD", "-d", "10.96.0.2", "-j", "DROP"])
    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(lambda _: try_to_connect(lab.client, ("10.96.0.2", 80)), range(8)))
    assert outcomes == [DROPPED] * 8
