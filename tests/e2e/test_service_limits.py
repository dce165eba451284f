"""Limits of a Service's clients by annotations: real servers, real rules, one process and two data processes."""

import json
import socket
from contextlib import ExitStack
from typing import Any

import pytest

from tests.lab.cluster import QUICK, Cell, Lab
from tests.lab.datagrams import ask_over
from tests.lab.drivers import DRIVERS
from tests.lab.manifests import Port
from tests.lab.probes import KeptConnection
from tests.lab.proxy import RunningProxy
from userproxy.demo.traffic import fetch, http
from userproxy.demo.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.parametrize("workers", ["0", "2"])]

WEB = ("10.96.0.10", 80)
FREE = ("10.96.0.20", 80)
METRICS = ("127.0.0.1", 10249)


def serve(lab: Lab, workers: str, *flags: str, **limits: str) -> RunningProxy:
    lab.serve_http()
    for name, address in (("web", WEB), ("free", FREE)):
        annotate(lab, name, address, **(limits if name == "web" else {}))
        lab.manifests.slice(name, lab.pods)
    proxy = lab.node.start_userproxy(*QUICK, "--workers", workers, *flags)
    lab.settle()
    return proxy


def annotate(lab: Lab, name: str, address: tuple[str, int], **limits: str) -> None:
    annotations = {f"userproxy.io/{key.replace('_', '-')}": value for key, value in limits.items()}
    lab.manifests.service(name, cluster_ip=address[0], ports=[Port(80)], annotations=annotations)


def of_web(lab: Lab) -> dict[str, Any]:
    (found,) = json.loads(lab.node.userproxy("get", "services", "default/web", "-o", "json").stdout)["items"]
    return dict(found)


def kept(lab: Lab, stack: ExitStack, count: int) -> list[KeptConnection]:
    found = [stack.enter_context(KeptConnection(lab.client, WEB)) for _ in range(count)]
    assert all(each.ask() for each in found)
    return found


def waiting(lab: Lab, stack: ExitStack) -> socket.socket:
    """A client who is connected, to the kernel, and has asked."""
    sock = stack.enter_context(lab.client.connect(WEB, 30))
    sock.sendall(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
    return sock


def is_answered(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
    finally:
        sock.settimeout(30)


def is_reset(lab: Lab) -> bool:
    with ExitStack() as stack:
        try:
            return not waiting(lab, stack).recv(100)
        except ConnectionResetError:
            return True


def test_no_more_connections_than_allowed_and_the_rest_wait_for_their_turn(lab: Lab, workers: str) -> None:
    serve(lab, workers, "--queue-timeout", "10m", max_connections="4")
    with ExitStack() as stack:
        several = kept(lab, stack, 4)
        others = [waiting(lab, stack) for _ in range(3)]
        assert [fetch(lab.client, FREE).pod for _ in range(3)], "other Services have no limit"
        assert of_web(lab)["active"] == 4
        assert not any(map(is_answered, others))
        assert of_web(lab)["waiting"] == 3
        described = lab.node.userproxy("describe", "service", "default/web").stdout
        assert "Limits:   4 connections (wait); 0 refused, 3 waiting" in described
        gauge = 'userproxy_clients_waiting{namespace="default",port="",protocol="TCP",service="web"} 3.0'
        eventually(lambda: gauge in http(lab.node, METRICS, "/metrics").decode(), 30, "metrics tell")
        several[0].close()
        for each in others:
            assert each.recv(100).startswith(b"HTTP/1.1 200")
            each.close()  # which makes room for the next
        assert all(each.ask() for each in several[1:])
        found = of_web(lab)
        assert found["limits"] == {"connections": 4, "overflow": "wait", "rate": None, "idle": None}
        assert (found["limited"], found["failed"]) == (0, 0)


def test_those_beyond_are_refused_at_once_and_that_is_told_everywhere(lab: Lab, workers: str) -> None:
    serve(lab, workers, max_connections="2", overflow="refuse")
    with ExitStack() as stack:
        several = kept(lab, stack, 2)
        for _ in range(3):
            with pytest.raises(ConnectionResetError):
                waiting(lab, stack).recv(100)
        eventually(lambda: of_web(lab)["limited"] == 3, 30, "all processes tell")
        decisions = lab.node.userproxy("observe", "default/web", "--last", "10").stdout
        assert decisions.count("REFUSED (there are 2 connections, as many as userproxy.io/max-connections allows") == 3
        described = lab.node.userproxy("describe", "service", "default/web").stdout
        assert "Limits:   2 connections (refuse); 3 refused, 0 waiting" in described
        wide = lab.node.userproxy("get", "services", "default/web", "-o", "wide").stdout
        assert "2 connections (refuse)" in wide
        metrics = http(lab.node, METRICS, "/metrics").decode()
        assert (
            'userproxy_connections_limited_total{namespace="default",port="",protocol="TCP",service="web"} 3.0'
            in metrics
        )
        several[0].close()
        eventually(lambda: bool(fetch(lab.client, WEB).pod), 30, "there is room again")


def test_who_waits_for_too_long_is_refused(lab: Lab, workers: str) -> None:
    serve(lab, workers, "--queue-timeout", "1s", max_connections="1")
    with ExitStack() as stack:
        (first,) = kept(lab, stack, 1)
        for each in [waiting(lab, stack) for _ in range(3)]:
            with pytest.raises(ConnectionResetError):
                each.recv(100)
        assert first.ask()
        assert "it has waited for 1 s" in lab.node.userproxy("observe", "default/web", "--last", "10").stdout


def test_a_rate_and_an_idle_time_and_other_values_as_they_are_edited(lab: Lab, workers: str) -> None:
    proxy = serve(lab, workers, connection_rate="2/m", overflow="refuse", idle_timeout="5s")
    with ExitStack() as stack:
        quiet = waiting(lab, stack)
        assert quiet.recv(100).startswith(b"HTTP/1.1 200")
        eventually(lambda: is_reset(lab), 30, "the rate lets one in at once, whichever process it came to")
        annotate(lab, "web", WEB, idle_timeout="5s", max_connections="many")
        proxy.wait_log(
            'annotation userproxy.io/max-connections: \\"many\\" is not a number of connections between 1 and'
        )
        eventually(
            lambda: of_web(lab)["limits"] == {"connections": None, "overflow": "wait", "rate": None, "idle": 5.0}
        )
        connection = stack.enter_context(KeptConnection(lab.client, WEB))
        assert connection.ask()
        eventually(lambda: of_web(lab)["active"] == 0, 30, "nothing is said on it")
        observed = lab.node.userproxy("observe", "default/web", "--last", "10").stdout
        assert "nothing was said for 5 s (userproxy.io/idle-timeout)" in observed


DNS = ("10.96.0.53", 53)


def flow(lab: Lab, stack: ExitStack) -> socket.socket:
    return stack.enter_context(lab.client.udp_socket(DNS, 30))


def is_dropped(sock: socket.socket) -> bool:
    """Whether a datagram gets no answer; one that had to wait would have it by now."""
    sock.settimeout(1.0)
    try:
        return not ask_over(sock)
    except TimeoutError:
        return True


def test_no_more_flows_than_allowed_before_and_after_a_take_over(lab: Lab, workers: str) -> None:
    for pod in lab.pods:
        pod.serve_http()
    ports = [Port(53, "dns", protocol="UDP")]
    lab.manifests.service("dns", cluster_ip=DNS[0], ports=ports, annotations={"userproxy.io/max-connections": "4"})
    lab.manifests.slice("dns", lab.pods, ports=[Port(8080, "dns", protocol="UDP")])
    old = lab.node.start_userproxy(*QUICK, "--workers", workers)
    lab.settle()
    with ExitStack() as stack:
        several = [flow(lab, stack) for _ in range(4)]
        served = [ask_over(each).pod for each in several]
        assert is_dropped(flow(lab, stack))
        lab.node.start_userproxy(*QUICK, "--workers", workers, "--takeover").wait_log("Taken over", 60)
        assert old.wait(30) == 0
        assert [ask_over(each).pod for each in several] == served
        late = flow(lab, stack)
        assert is_dropped(late)
        observed = lab.node.userproxy("observe", "default/dns", "--last", "20").stdout
        assert "there are 4 flows, as many as userproxy.io/max-connections allows" in observed
        listed = json.loads(lab.node.userproxy("get", "connections", "default/dns", "-o", "json").stdout)["items"]
        assert len(listed) == 4
        closed = lab.node.userproxy("close", "connections", "-l", f"id={listed[0]['id']}").stdout
        assert closed == "1 connection closed\n"
        eventually(lambda: not is_dropped(late), 30, "there is room for one more")
        assert is_dropped(flow(lab, stack))


with_local_portals = pytest.mark.parametrize("cell", [Cell(DRIVERS["local"])], indirect=True, ids=str)


@with_local_portals
def test_clients_wait_for_their_turn_where_portals_are_sockets_of_ours(lab: Lab, workers: str) -> None:
    serve(lab, workers, "--queue-timeout", "10m", max_connections="2")
    with ExitStack() as stack:
        several = kept(lab, stack, 2)
        others = [waiting(lab, stack) for _ in range(3)]
        eventually(lambda: of_web(lab)["waiting"] == 3, 30, "they wait")
        assert not any(map(is_answered, others))
        several[0].close()
        for each in others:
            assert each.recv(100).startswith(b"HTTP/1.1 200")
            each.close()
        assert several[1].ask()
        assert (of_web(lab)["limited"], of_web(lab)["failed"]) == (0, 0)


@with_local_portals
def test_clients_are_held_where_portals_are_sockets_of_ours(lab: Lab, workers: str) -> None:
    annotate(lab, "web", WEB, hold="10m")
    lab.node.start_userproxy(*QUICK, "--workers", workers)
    lab.node.wait_for_portal(WEB[0])
    with ExitStack() as stack:
        several = [waiting(lab, stack) for _ in range(5)]
        eventually(lambda: of_web(lab)["held"] == 5, 30, "they are held")
        several.pop().close()
        eventually(lambda: of_web(lab)["held"] == 4, 30, "one has left")
        lab.serve_http()
        lab.manifests.slice("web", lab.pods)
        for each in several:
            assert each.recv(100).startswith(b"HTTP/1.1 200")
    assert (of_web(lab)["held"], of_web(lab)["failed"]) == (0, 1), "who has left"
