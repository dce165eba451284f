"""Endpoints that refuse, hang or reset are ejected, and come back by one connection."""

import json
import signal
from typing import Any

import pytest

from tests.lab.cluster import QUICK, Lab
from userproxy.demo.programs import Program
from userproxy.demo.traffic import fetch_many, http
from userproxy.demo.waiting import eventually

pytestmark = pytest.mark.e2e

WEB = ("10.96.0.10", 80)
METRICS = ("127.0.0.1", 10249)
EJECT = {"userproxy.io/eject": "3 failures, 5s"}
each_number_of_workers = pytest.mark.parametrize("workers", ["0", "2"], ids=["one process", "two data processes"])

RESETS = """
import socket, struct
listener = socket.create_server(("", 8080))
while True:
    client, _ = listener.accept()
    client.recv(65536)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
"""
"""A server that resets every connection at its first request."""

SHORT_QUEUE = """
import socket
listener = socket.create_server(("", 8080), backlog=0)
while True:
    client, _ = listener.accept()
    client.recv(65536)
    body = b'{"pod":"web-3","client":"?"}'
    client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
    client.close()
"""
"""A server whose queue is full soon once it is stopped: its kernel then answers no SYN."""


def serve(lab: Lab, workers: str = "0", annotations: dict[str, str] = EJECT) -> None:
    lab.manifests.service("web", cluster_ip=WEB[0], annotations=annotations)
    lab.manifests.slice("web", lab.pods)
    lab.node.start_userproxy(*QUICK, "--workers", workers)
    lab.node.wait_for_rules("default/web")


def state(lab: Lab, number: int) -> dict[str, Any]:
    """What is said of a Pod's endpoint."""
    listed = json.loads(lab.node.userproxy("get", "endpoints", "default/web", "-o", "json").stdout)["items"]
    found: dict[str, Any] = {each["endpoint"]: each for each in listed}[f"{lab.pods[number].address}:8080"]
    return found


def ejected_by(lab: Lab, number: int) -> dict[str, Any]:
    """Send clients until an endpoint is ejected; none of them may fail."""

    def is_ejected() -> bool:
        assert not fetch_many(lab.client, WEB, 12, concurrency=2).failures
        return bool(state(lab, number)["ejected"])

    eventually(is_ejected, 30, "the endpoint is ejected")
    return state(lab, number)


@pytest.mark.parametrize("lab", ["api"], indirect=True)
@each_number_of_workers
def test_one_that_is_killed_is_ejected_once_and_comes_back(lab: Lab, workers: str) -> None:
    servers = lab.serve_http()
    serve(lab, workers)
    dead = lab.pods[2]
    servers[dead.name].close()
    found = ejected_by(lab, 2)
    assert "3 failures in a row: Connection refused" in found["reason"]
    proxy = lab.node.proxies[0]
    record = proxy.wait_log("Endpoint ejected")
    assert (record["service_port"], record["endpoint"]) == ("default/web", f"{dead.address}:8080")
    assert (
        f"{dead.address}:8080 gets no new connections since"
        in lab.node.userproxy("describe", "service", "default/web").stdout
    )
    metrics = http(lab.node, METRICS, "/metrics").decode()
    assert "userproxy_ejections_total{" in metrics
    servers[dead.name] = dead.serve_http()

    def is_back() -> bool:
        tally = fetch_many(lab.client, WEB, 12, concurrency=1)
        assert not tally.failures
        return tally.pods[dead.name] >= 3 and not state(lab, 2)["ejected"]

    eventually(is_back, 40, "it serves again")
    proxy.wait_log("Endpoint not ejected any more")
    assert sum(each["event"] == "Endpoint ejected" for each in proxy.records) == 1, "one episode is told once"
    (event,) = [
        body
        for (kind, _, _), body in lab.api.objects.items()
        if kind == "Event" and body["reason"] == "EndpointEjected"
    ]
    assert (event["regarding"]["kind"], event["regarding"]["name"]) == ("Service", "web")
    assert "3 failures in a row: Connection refused" in event["note"]


@each_number_of_workers
def test_the_decision_by_which_it_came_says_so(lab: Lab, workers: str) -> None:
    servers = lab.serve_http()
    serve(lab, workers)
    servers[lab.pods[2].name].close()
    ejected_by(lab, 2)
    observed = lab.node.userproxy("observe", "default/web", "--last", "500").stdout
    assert observed.count("ejected for 5 s") >= 1


@each_number_of_workers
def test_one_that_resets_is_ejected(lab: Lab, workers: str) -> None:
    for pod in lab.pods[:2]:
        pod.serve_http()
    lab.pods[2].serve_python(RESETS)
    serve(lab, workers)

    def is_ejected() -> bool:
        fetch_many(lab.client, WEB, 12, concurrency=1)  # some of which are reset
        return bool(state(lab, 2)["ejected"])

    eventually(is_ejected, 30, "the endpoint is ejected")
    assert "connections are reset before a byte comes" in state(lab, 2)["reason"]


def test_one_that_is_stopped_is_ejected_and_comes_back_when_it_goes_on(lab: Lab) -> None:
    for pod in lab.pods[:2]:
        pod.serve_http()
    hung: Program = lab.pods[2].serve_python(SHORT_QUEUE)
    serve(lab)
    hung.signal(signal.SIGSTOP)

    def is_ejected() -> bool:
        fetch_many(lab.client, WEB, 12, concurrency=12, timeout=2.0)  # some of which wait in its queue
        return bool(state(lab, 2)["ejected"])

    eventually(is_ejected, 40, "the endpoint is ejected")
    assert "no answer within" in state(lab, 2)["reason"]
    hung.signal(signal.SIGCONT)
    eventually(
        lambda: fetch_many(lab.client, WEB, 12, concurrency=1).pods["web-3"] >= 3 and not state(lab, 2)["ejected"],
        40,
        "it serves again",
    )


def test_half_of_them_stay(lab: Lab) -> None:
    lab.pods[0].serve_http()
    serve(lab)
    for _ in range(5):
        assert fetch_many(lab.client, WEB, 12, concurrency=1).pods == {lab.pods[0].name: 12}
    states = [state(lab, number) for number in range(3)]
    assert [each["ejected"] for each in states].count(True) == 1
    assert any(each["reason"].startswith("passed over for") for each in states)


def test_a_wrong_value_is_told_and_the_rule_of_five_seconds_counts(lab: Lab) -> None:
    lab.pods[0].serve_http()
    serve(lab, annotations={"userproxy.io/eject": "often"})
    record = lab.node.proxies[0].wait_log("often")
    assert record["event"].startswith(
        'default/web: annotation userproxy.io/eject: "often" is not a number of failures between 1 and 1000'
    )
    assert not fetch_many(lab.client, WEB, 12, concurrency=1).failures
    assert not state(lab, 1)["ejected"]


@each_number_of_workers
def test_a_successor_goes_on_with_what_is_ejected(lab: Lab, workers: str) -> None:
    servers = lab.serve_http()
    serve(lab, workers, {"userproxy.io/eject": "3 failures, 10m"})
    servers[lab.pods[2].name].close()
    ejected_by(lab, 2)
    before = lab.node.proxies[0]
    lab.node.start_userproxy(*QUICK, "--workers", workers, "--takeover")
    assert before.wait() == 0
    assert state(lab, 2)["ejected"]
    tally = fetch_many(lab.client, WEB, 24, concurrency=1)
    assert not tally.failures
    assert "retried" not in lab.node.userproxy("observe", "default/web", "--last", "24").stdout.lower()
