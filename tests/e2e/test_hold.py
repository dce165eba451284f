"""Services that sleep are woken by their clients: real servers, real rules, one process and two data processes."""

import json
import os
import signal
import socket
import struct
from contextlib import ExitStack
from typing import Any

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.manifests import Port
from tests.lab.probes import REFUSED, try_to_connect
from tests.lab.proxy import RunningProxy
from userproxy.demo.traffic import http
from userproxy.demo.waiting import eventually
from userproxy.model.holding import MOST_HELD

pytestmark = pytest.mark.e2e
with_workers = pytest.mark.parametrize("workers", ["0", "2"])
over = pytest.mark.parametrize(("before", "after"), [("0", "0"), ("0", "2"), ("2", "0"), ("2", "2"), ("2", "1")])
with_api = pytest.mark.parametrize("lab", ["api"], indirect=True)

WEB = ("10.96.0.10", 80)
METRICS = ("127.0.0.1", 10249)

COUNTS = """
import socket
listener = socket.create_server(("", 8080), backlog=1024)
number = 0
while True:
    client, _ = listener.accept()
    if client.recv(100):
        client.sendall(b"%d" % number)
        number += 1
    client.close()
"""
"""A server that tells each client how many it has served before, one after the other."""


ECHO = """
import socket
echo = socket.socket(type=socket.SOCK_DGRAM)
echo.bind(("", 8080))
ready = socket.create_server(("", 8080))
while True:
    said, client = echo.recvfrom(100)
    echo.sendto(said, client)
"""
"""A server of datagrams; that it is there shows at its TCP port."""


def serve(lab: Lab, workers: str, *flags: str, **annotations: str) -> RunningProxy:
    annotate(lab, **annotations)
    proxy = lab.node.start_userproxy(*QUICK, "--workers", workers, *flags)
    lab.node.wait_for_portal(WEB[0])
    return proxy


def annotate(lab: Lab, **annotations: str) -> None:
    named = {f"userproxy.io/{key}": value for key, value in annotations.items()}
    lab.manifests.service("web", cluster_ip=WEB[0], ports=[Port(80)], annotations=named)


def client(lab: Lab, stack: ExitStack) -> socket.socket:
    """A client who has connected, to the kernel, and has asked."""
    sock = stack.enter_context(lab.client.connect(WEB, 60))
    sock.sendall(b"?")
    return sock


def of_web(lab: Lab) -> dict[str, Any]:
    (found,) = json.loads(lab.node.userproxy("get", "services", "default/web", "-o", "json").stdout)["items"]
    return dict(found)


def wait_held(lab: Lab, count: int) -> None:
    eventually(lambda: of_web(lab)["held"] == count, 60, f"{count} clients are held")


def events(lab: Lab, reason: str) -> list[dict[str, Any]]:
    return [body for (kind, _, _), body in lab.api.objects.items() if kind == "Event" and body["reason"] == reason]


@with_workers
@with_api
def test_as_many_as_may_be_are_held_and_served_in_order_when_pods_come(lab: Lab, workers: str) -> None:
    serve(lab, workers, hold="10m")
    with ExitStack() as stack:
        several = [client(lab, stack) for _ in range(MOST_HELD)]
        wait_held(lab, MOST_HELD)
        for _ in range(2):
            with pytest.raises(ConnectionResetError):
                client(lab, stack).recv(10)
        observed = lab.node.userproxy("observe", "default/web", "--last", "1000").stdout
        assert observed.count(f"REFUSED ({MOST_HELD} clients are held, as many as may be (userproxy.io/hold)") == 2
        described = lab.node.userproxy("describe", "service", "default/web").stdout
        assert "Hold:     600 s while there is no endpoint; 500 held" in described
        listed = lab.node.userproxy("get", "connections", "default/web", "-l", "state=held", "-o", "json").stdout
        assert len(json.loads(listed)["items"]) == MOST_HELD
        metrics = http(lab.node, METRICS, "/metrics").decode()
        assert 'userproxy_clients_held{namespace="default",port="",protocol="TCP",service="web"} 500.0' in metrics
        explained = lab.node.userproxy("explain", "default/web", "--from", lab.client.address).stdout
        assert "clients are held for 600 s at most, until there is an endpoint" in explained
        eventually(lambda: events(lab, "NeedPods"), 30, "whoever starts Pods is told")
        lab.pods[0].serve_python(COUNTS)
        lab.manifests.slice("web", lab.pods[:1])
        answers = [int(each.recv(10)) for each in several]
        assert answers == list(range(MOST_HELD))
    found = of_web(lab)
    assert (found["total"], found["failed"], found["held"]) == (MOST_HELD + 2, 2, 0)
    (event,) = events(lab, "NeedPods")
    assert (event["regarding"]["kind"], event["regarding"]["name"], event["type"]) == ("Service", "web", "Normal")
    assert "The service-port web: needs pods." in event["note"]


@with_workers
def test_what_held_clients_cost_is_bounded_and_who_leaves_gives_its_place_back(lab: Lab, workers: str) -> None:
    """A held client is one descriptor and some kilobytes at most, and one that is gone is nothing."""
    proxy = serve(lab, workers, hold="10m")
    with ExitStack() as stack:
        client(lab, stack).close()  # what is made once is there
        wait_held(lab, 0)
        descriptors, memory = proxy.descriptors_at_rest(), proxy.rss()
        several = [client(lab, stack) for _ in range(MOST_HELD)]
        wait_held(lab, MOST_HELD)
        opened, grown = proxy.descriptors() - descriptors, proxy.rss() - memory
        print("descriptors and resident memory of a held client:", opened / MOST_HELD, grown / MOST_HELD)
        assert MOST_HELD - 20 <= opened <= MOST_HELD + 20
        assert grown < MOST_HELD * 16_384
        with pytest.raises(ConnectionResetError):
            client(lab, stack).recv(10)
        for number, each in enumerate(several[::5]):
            if number % 2:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            each.close()
        wait_held(lab, MOST_HELD - 100)
        eventually(lambda: proxy.descriptors() <= descriptors + MOST_HELD - 80, 30, "they have no descriptors any more")
        more = [client(lab, stack) for _ in range(100)]
        wait_held(lab, MOST_HELD)
        with pytest.raises(ConnectionResetError):
            client(lab, stack).recv(10)
        lab.pods[0].serve_python(COUNTS)
        lab.manifests.slice("web", lab.pods[:1])
        staying = [each for number, each in enumerate(several) if number % 5]
        assert [int(each.recv(10)) for each in (*staying, *more)] == list(range(MOST_HELD))
        stack.close()
        eventually(lambda: proxy.descriptors() <= descriptors + 20, 30, "all descriptors are closed")


@with_workers
@with_api
def test_who_starts_pods_is_told_again_as_long_as_clients_wait(lab: Lab, workers: str) -> None:
    proxy = serve(lab, workers, hold="10m")
    assert not events(lab, "NeedPods")
    with ExitStack() as stack:
        client(lab, stack)
        proxy.wait_log("Pods are needed")
        eventually(lambda: [each.get("series", {}).get("count") for each in events(lab, "NeedPods")] == [3], 60)
    proxy.wait_log("Nobody waits for Pods any more")


@with_workers
def test_one_who_leaves_and_one_who_waits_for_too_long(lab: Lab, workers: str) -> None:
    serve(lab, workers, hold="10m")
    with ExitStack() as stack:
        leaving, staying = client(lab, stack), client(lab, stack)
        wait_held(lab, 2)
        leaving.close()
        wait_held(lab, 1)
        annotate(lab, hold="1s")
        with pytest.raises(ConnectionResetError):
            staying.recv(10)
    observed = lab.node.userproxy("observe", "default/web", "--last", "10").stdout
    assert "the client has left while it was held" in observed
    assert "no endpoint has come within 1 s (userproxy.io/hold)" in observed


@with_workers
def test_a_wrong_value_is_told_and_clients_are_refused_as_without_one(lab: Lab, workers: str) -> None:
    proxy = serve(lab, workers, hold="for ever")
    record = proxy.wait_log("for ever")
    assert record["event"].startswith(
        'default/web: annotation userproxy.io/hold: "for ever" is not a duration such as 120s, between 1s and 1h'
    )
    assert try_to_connect(lab.client, WEB) == REFUSED
    annotate(lab, hold="10m")
    with ExitStack() as stack:
        eventually(lambda: try_to_connect(lab.client, WEB) != REFUSED, 30, "clients are held")
        held = client(lab, stack)
        wait_held(lab, 1)
        annotate(lab)
        with pytest.raises(ConnectionResetError):
            held.recv(10)
    eventually(lambda: try_to_connect(lab.client, WEB) == REFUSED, 30, "clients are refused")


def hold_datagrams(lab: Lab, workers: str, stack: ExitStack) -> list[socket.socket]:
    """Clients who have sent two datagrams each to a Service without endpoints, the last of which is held."""
    named = {"userproxy.io/hold": "10m"}
    lab.manifests.service("web", cluster_ip=WEB[0], ports=[Port(80, protocol="UDP")], annotations=named)
    lab.node.start_userproxy(*QUICK, "--workers", workers)
    lab.node.wait_for_portal(WEB[0])
    several = [stack.enter_context(lab.client.udp_socket(WEB, 60)) for _ in range(20)]
    for number, each in enumerate(several):
        each.send(b"too early")
        each.send(b"the last of %d" % number)
    wait_held(lab, 20)
    return several


def serve_datagrams(lab: Lab) -> None:
    """Have the Service an endpoint."""
    lab.pods[0].serve_python(ECHO)
    lab.manifests.slice("web", lab.pods[:1], ports=[Port(8080, protocol="UDP")])


@with_workers
def test_the_last_datagram_of_each_client_is_held(lab: Lab, workers: str) -> None:
    with ExitStack() as stack:
        several = hold_datagrams(lab, workers, stack)
        serve_datagrams(lab)
        for number, each in enumerate(several):
            assert each.recv(100) == b"the last of %d" % number
        several[0].send(b"another")
        assert several[0].recv(100) == b"another"
    assert of_web(lab)["held"] == 0


def take_over(lab: Lab, old: RunningProxy, workers: str) -> None:
    """Another userproxy with so many data processes in the place of one that holds clients."""
    lab.node.start_userproxy(*QUICK, "--workers", workers, "--takeover").wait_log("Taken over", 60)
    assert old.wait(30) == 0


@over
def test_held_clients_are_handed_over_and_keep_their_order(lab: Lab, before: str, after: str) -> None:
    old = serve(lab, before, hold="10m")
    with ExitStack() as stack:
        several = [client(lab, stack) for _ in range(100)]
        wait_held(lab, 100)
        take_over(lab, old, after)
        wait_held(lab, 100)
        several[50].close()
        several += [client(lab, stack) for _ in range(20)]
        wait_held(lab, 119)
        lab.pods[0].serve_python(COUNTS)
        lab.manifests.slice("web", lab.pods[:1])
        del several[50]
        assert [int(each.recv(10)) for each in several] == list(range(119))
    assert of_web(lab)["held"] == 0


def test_a_data_process_that_is_killed_costs_those_that_it_held_and_gives_their_places_back(lab: Lab) -> None:
    proxy = serve(lab, "2", hold="10m")
    with ExitStack() as stack:
        lost = [client(lab, stack) for _ in range(MOST_HELD)]
        wait_held(lab, MOST_HELD)
        holder = max(proxy.processes[1:], key=lambda pid: len(os.listdir(f"/proc/{pid}/fd")))
        os.kill(holder, signal.SIGKILL)
        for each in lost:
            with pytest.raises(ConnectionResetError):
                each.recv(10)
        eventually(lambda: of_web(lab)["held"] == 0, 30, "nobody is held any more")
        several = [client(lab, stack) for _ in range(MOST_HELD)]
        wait_held(lab, MOST_HELD)
        with pytest.raises(ConnectionResetError):
            client(lab, stack).recv(10)
        lab.pods[0].serve_python(COUNTS)
        lab.manifests.slice("web", lab.pods[:1])
        assert sorted(int(each.recv(10)) for each in several) == list(range(MOST_HELD))


@over
def test_held_datagrams_are_handed_over(lab: Lab, before: str, after: str) -> None:
    with ExitStack() as stack:
        several = hold_datagrams(lab, before, stack)
        take_over(lab, lab.node.proxies[-1], after)
        several[0].send(b"after the take-over")
        serve_datagrams(lab)
        assert several[0].recv(100) in {b"after the take-over", b"the last of 0"}
        for number, each in enumerate(several[1:], 1):
            assert each.recv(100) == b"the last of %d" % number
    wait_held(lab, 0)
