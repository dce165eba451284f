"""Endpoints that refuse or never answer: nobody fails, and nobody waits for another's dial."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.lab.cluster import Lab
from tests.lab.manifests import Port
from userproxy.demo.traffic import fetch, fetch_many

pytestmark = [pytest.mark.e2e, pytest.mark.parametrize("lab", ["manifests", "api"], indirect=True)]

CLUSTER_IP = ("10.96.0.10", 80)
DIAL_LIMIT = 0.25
"""Seconds that the first dial of a connection may take, as with kube-proxy."""


def serve_one_of_three(lab: Lab) -> None:
    """web-1 is live; web-2 has no server, so it refuses; a firewall makes web-3 a black hole."""
    live, _, hole = lab.pods
    live.serve_http()
    hole.run(["iptables-nft", "-A", "INPUT", "-p", "tcp", "-j", "DROP"])
    lab.manifests.service("web", cluster_ip=CLUSTER_IP[0])
    lab.manifests.slice("web", lab.pods, ports=[Port(80)])
    lab.node.start_userproxy("-v", "2")
    lab.node.wait_for_rules("default/web")


def test_none_of_two_hundred_connections_fails_and_the_lucky_ones_are_not_delayed(lab: Lab) -> None:
    serve_one_of_three(lab)
    spans: list[tuple[float, float]] = []

    def ask(_: int) -> str:
        start = time.monotonic()
        pod = fetch(lab.client, CLUSTER_IP).pod
        spans.append((start, time.monotonic()))
        return pod

    with ThreadPoolExecutor(20) as threads:
        assert Counter(threads.map(ask, range(200))) == Counter({"web-1": 200})
    # Whoever is sent to the black hole waits for a dial limit, a quarter of a second at least. Whoever comes meanwhile
    # does not wait for that: were dials made one after another, nobody would ever overtake.
    waits = [(start, end) for start, end in spans if end - start >= DIAL_LIMIT]
    overtakers = sum(any(first < start and end < last for first, last in waits) for start, end in spans)
    assert waits
    assert overtakers >= 20


def test_every_retry_says_why(lab: Lab) -> None:
    serve_one_of_three(lab)
    proxy = lab.node.proxies[0]
    assert not fetch_many(lab.client, CLUSTER_IP, 6, concurrency=1).failures
    refused = proxy.wait_log("Connection refused")
    assert (refused["service_port"], refused["endpoint"]) == ("default/web", f"{lab.pods[1].address}:8080")
    silent = proxy.wait_log("no answer within")
    assert silent["endpoint"] == f"{lab.pods[2].address}:8080"


def test_with_affinity_a_client_leaves_a_dead_endpoint_for_good(lab: Lab) -> None:
    live, second, _ = lab.pods
    servers = lab.serve_http()
    lab.manifests.service("web", cluster_ip=CLUSTER_IP[0], affinity=3600)
    lab.manifests.slice("web", [live, second], ports=[Port(80)])
    lab.node.start_userproxy()
    lab.node.wait_for_rules("default/web")
    (first,) = fetch_many(lab.client, CLUSTER_IP, 10).pods
    servers[first].close()
    tally = fetch_many(lab.client, CLUSTER_IP, 50)
    assert not tally.failures
    assert first not in tally.pods
    assert len(tally.pods) == 1
