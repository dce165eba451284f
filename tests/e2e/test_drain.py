"""Drained endpoints and closed connections, with real servers, by the commands."""

import json
import signal
from collections import Counter
from contextlib import ExitStack
from http.client import HTTPException
from typing import Any

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.datagrams import ask_over
from tests.lab.manifests import Port
from tests.lab.probes import KeptConnection
from tests.lab.proxy import RunningProxy
from userproxy.demo.hosts import Address
from userproxy.demo.traffic import fetch
from userproxy.demo.waiting import eventually

pytestmark = pytest.mark.e2e

WEB: Address = ("10.96.0.10", 80)
DNS: Address = ("10.96.0.53", 53)


def start(lab: Lab, workers: str, *flags: str, removal: str = "keep") -> None:
    lab.serve_http()
    lab.manifests.service("web", cluster_ip=WEB[0], annotations={"userproxy.io/on-endpoint-removal": removal})
    lab.manifests.slice("web", lab.pods)
    udp = [Port(53, "dns", protocol="UDP")]
    lab.manifests.service("dns", ports=udp, cluster_ip=DNS[0])
    lab.manifests.slice("dns", lab.pods, ports=[Port(8080, "dns", protocol="UDP")])
    lab.node.start_userproxy(*QUICK, "--workers", workers, *flags)
    lab.settle()


def told(lab: Lab, *arguments: str) -> str:
    done = lab.node.userproxy(*arguments)
    assert done.stderr == ""
    return done.stdout


def items(lab: Lab, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(told(lab, "get", *arguments, "-o", "json"))["items"]
    return found


def served_by(lab: Lab, count: int = 30) -> Counter[str]:
    return Counter(fetch(lab.client, WEB).pod for _ in range(count))


def keep(lab: Lab, stack: ExitStack) -> dict[KeptConnection, str]:
    """Connections of a client that are kept open, and who serves each."""
    kept = [stack.enter_context(KeptConnection(lab.client, WEB)) for _ in range(12)]
    return {each: each.ask().pod for each in kept}


def is_alive(connection: KeptConnection) -> bool:
    try:
        connection.ask()
    except (OSError, HTTPException):
        return False
    return True


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_drained_endpoint_gets_nobody_keeps_its_own_and_comes_back(lab: Lab, workers: str) -> None:
    start(lab, workers)
    drained = lab.pods[0]
    with ExitStack() as stack:
        kept = [stack.enter_context(KeptConnection(lab.client, WEB)) for _ in range(12)]
        mine = [each for each in kept if each.ask().pod == drained.name]
        assert 0 < len(mine) < 12
        endpoint = f"{drained.address}:8080"
        assert "gets no new clients until" in told(lab, "drain", "default/web", "--endpoint", endpoint, "--for", "10m")
        assert served_by(lab).keys() == {pod.name for pod in lab.pods[1:]}
        assert all(each.ask().pod == drained.name for each in mine)
        (item,) = items(lab, "endpoints", "default/web", "-l", f"endpoint={endpoint}")
        assert (item["usable"], item["reason"]) == (False, "drained on request")
        assert "drained on request" in told(lab, "describe", "service", "default/web")
        assert told(lab, "undrain", "default/web") == "default/web: 1 endpoint no longer drained\n"
        assert served_by(lab).keys() == {pod.name for pod in lab.pods}
        assert all(map(is_alive, kept))


@pytest.mark.parametrize("workers", ["0", "2"])
def test_its_connections_are_closed_when_it_is_time_and_those_of_others_are_not(lab: Lab, workers: str) -> None:
    start(lab, workers)
    with ExitStack() as stack:
        kept = keep(lab, stack)
        drained = lab.pods[0]
        endpoint = f"{drained.address}:8080"
        told(lab, "drain", "default/web", "--endpoint", endpoint, "--close-after", "500ms")
        eventually(
            lambda: not items(lab, "connections", "default/web", "-l", f"endpoint={endpoint}"), 10, "they are closed"
        )
        assert {each for each in kept if is_alive(each)} == {each for each in kept if kept[each] != drained.name}


@pytest.mark.parametrize("workers", ["0", "2"])
def test_flows_stay_where_they_are_and_new_ones_go_elsewhere(lab: Lab, workers: str) -> None:
    start(lab, workers)
    drained = lab.pods[0]
    with ExitStack() as stack:
        clients = [stack.enter_context(lab.client.udp_socket(DNS)) for _ in range(12)]
        before = [ask_over(client).pod for client in clients]
        assert drained.name in before
        told(lab, "drain", "default/dns", "--endpoint", f"{drained.address}:8080")
        assert [ask_over(client).pod for client in clients] == before
        more = [stack.enter_context(lab.client.udp_socket(DNS)) for _ in range(12)]
        assert drained.name not in {ask_over(client).pod for client in more}
        assert told(lab, "close", "connections", "default/dns", "-l", f"endpoint={drained.address}") == (
            f"{before.count(drained.name)} connection{'s' if before.count(drained.name) != 1 else ''} closed\n"
        )
        assert drained.name not in {ask_over(client).pod for client in clients}


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_last_one_serves_although_it_is_drained(lab: Lab, workers: str) -> None:
    start(lab, workers)
    for pod in lab.pods:
        told(lab, "drain", "default/web", "--endpoint", f"{pod.address}:8080", "--for", "1m")
    assert sum(served_by(lab, 9).values()) == 9
    lab.manifests.slice("web", lab.pods[:1])
    eventually(lambda: served_by(lab, 6).keys() == {lab.pods[0].name}, 10, "the one that is left serves")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_removed_endpoint_keeps_its_connections_as_long_as_the_service_says(lab: Lab, workers: str) -> None:
    start(lab, workers, removal="drain:3s")
    with ExitStack() as stack:
        kept = keep(lab, stack)
        removed = lab.pods[0]
        lab.manifests.slice("web", lab.pods[1:])
        eventually(lambda: removed.name not in served_by(lab, 6), 10, "no slice names it")
        assert all(map(is_alive, kept))
        mine = {each for each in kept if kept[each] == removed.name}
        eventually(lambda: not any(is_alive(each) for each in mine), 20, "its connections are closed")
        assert all(is_alive(each) for each in kept.keys() - mine)


OVER = pytest.mark.parametrize(("before", "after"), [("0", "0"), ("0", "2"), ("2", "0"), ("2", "2")])


def take_over(lab: Lab, workers: str) -> None:
    """Another userproxy with so many data processes in the place of the one that runs."""
    old = lab.node.proxies[-1]
    lab.node.start_userproxy(*QUICK, "--workers", workers, "--takeover").wait_log("Taken over", 60)
    assert old.wait(30) == 0


def listed_drains(lab: Lab) -> list[dict[str, Any]]:
    said = lab.node.run(["curl", "-s", "--unix-socket", "/run/userproxy/admin.sock", _DRAINS]).stdout
    found: list[dict[str, Any]] = json.loads(said)["items"]
    return found


@OVER
def test_a_drain_goes_on_over_a_take_over_and_closes_in_the_successor(lab: Lab, before: str, after: str) -> None:
    start(lab, before)
    drained, closed = lab.pods[0], lab.pods[1]
    with ExitStack() as stack:
        kept = keep(lab, stack)
        told(lab, "drain", "default/web", "--endpoint", f"{drained.address}:8080", "--for", "10m")
        told(lab, "drain", "default/web", "--endpoint", f"{closed.address}:8080", "--close-after", "15s")
        listed = listed_drains(lab)
        take_over(lab, after)
        assert listed_drains(lab) == listed
        assert served_by(lab).keys() == {lab.pods[2].name}
        successor = lab.node.proxies[-1]
        of_closed = sum(pod == closed.name for pod in kept.values())
        record = successor.wait_log("Connections to a drained endpoint closed")
        assert (record["endpoint"], record["connections"]) == (f"{closed.address}:8080", of_closed)
        assert {each for each in kept if is_alive(each)} == {each for each in kept if kept[each] != closed.name}
        told(lab, "undrain", "default/web")
        assert served_by(lab).keys() == {pod.name for pod in lab.pods}


def start_successor(lab: Lab, workers: str) -> RunningProxy:
    """Another userproxy that is to take over: loading it takes longest, and it has not read any manifest."""
    successor = lab.node.start_userproxy(*QUICK, "--workers", workers, "--takeover")
    successor.wait_log("userproxy starts", 60)
    return successor


def they_stay_in_a_successor_and_are_closed(
    lab: Lab, successor: RunningProxy, kept: dict[KeptConnection, str], removed: str
) -> None:
    """Clients of a removed endpoint, where no time limit is over by the time when it has taken over."""
    successor.wait_log("Taken over", 60)
    assert lab.node.proxies[0].wait(30) == 0
    lab.settle()
    mine = {each for each in kept if kept[each] == removed}
    assert all(map(is_alive, kept))
    assert removed not in served_by(lab)
    eventually(lambda: not any(is_alive(each) for each in mine), 40, "its connections are closed")
    assert all(is_alive(each) for each in kept.keys() - mine)


@OVER
def test_clients_of_a_removed_endpoint_may_stay_as_long_in_the_successor(lab: Lab, before: str, after: str) -> None:
    start(lab, before, removal="drain:10s")
    with ExitStack() as stack:
        kept, removed = keep(lab, stack), lab.pods[0]
        successor = start_successor(lab, after)
        successor.signal(signal.SIGSTOP)  # so that little is left to be done in these ten seconds
        lab.manifests.slice("web", lab.pods[1:])
        eventually(lambda: removed.name not in served_by(lab, 6), 10, "no slice names it")
        successor.signal(signal.SIGCONT)
        they_stay_in_a_successor_and_are_closed(lab, successor, kept, removed.name)


@OVER
def test_an_endpoint_that_leaves_while_a_successor_starts_keeps_its_connections(
    lab: Lab, before: str, after: str
) -> None:
    start(lab, before, removal="drain:10s")
    with ExitStack() as stack:
        kept, removed, old = keep(lab, stack), lab.pods[0], lab.node.proxies[-1]
        old.signal(signal.SIGSTOP)  # it does not hear of what follows
        lab.manifests.slice("web", lab.pods[1:])
        successor = start_successor(lab, after)
        old.signal(signal.SIGCONT)
        they_stay_in_a_successor_and_are_closed(lab, successor, kept, removed.name)


_DRAINS = "http://localhost/v1/drains"


@pytest.mark.parametrize("workers", ["0", "2"])
def test_connections_of_one_client_are_closed(lab: Lab, workers: str) -> None:
    start(lab, workers)
    with ExitStack() as stack:
        kept = [stack.enter_context(KeptConnection(lab.client, WEB)) for _ in range(6)]
        other = stack.enter_context(KeptConnection(lab.pods[1], WEB))
        for each in (*kept, other):
            each.ask()
        assert told(lab, "close", "connections", "-l", f"client={lab.client.address}") == "6 connections closed\n"
        assert not any(map(is_alive, kept))
        assert is_alive(other)
        said = lab.node.userproxy("observe", "default/web", "--verdict", "reset", "--last", "6").stdout
        assert said.count("RESET (closed on request") == 6


@pytest.mark.parametrize("workers", ["0", "2"])
def test_one_connection_of_a_client_is_closed_by_its_id(lab: Lab, workers: str) -> None:
    start(lab, workers)
    with ExitStack() as stack:
        kept = [stack.enter_context(KeptConnection(lab.client, WEB)) for _ in range(6)]
        assert all(map(is_alive, kept))
        known = [each["id"] for each in items(lab, "connections", "default/web")]
        for number in known[:2]:
            assert [each["id"] for each in items(lab, "connections", "-l", f"id={number}")] == [number]
            assert told(lab, "close", "connections", "-l", f"id={number}") == "1 connection closed\n"
        assert sum(map(is_alive, kept)) == 4
        assert [each["id"] for each in items(lab, "connections", "default/web")] == known[2:]
        assert told(lab, "close", "connections", "-l", f"id={known[0]}") == "0 connections closed\n"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ("drain default/web --endpoint 10.244.1.2", 2, "has no port"),
        ("drain default/web --endpoint 10.9.9.9:80", 1, "default/web has no endpoint 10.9.9.9:80, but"),
        ("undrain default/web", 1, "no endpoint of default/web is drained"),
        ("close connections", 2, "say which connections are to be closed"),
        ("fault set default/web --latency 200ms --for 5m", 1, "faults are not allowed here: start userproxy with"),
    ],
)
def test_wrong_input_is_one_sentence(shared_lab: Lab, arguments: str, code: int, sentence: str) -> None:
    if not shared_lab.node.proxies:
        start(shared_lab, "0")
    done = shared_lab.node.userproxy(*arguments.split(), check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert sentence in done.stderr
