"""The admin API of a running proxy, with real traffic, restarts, and another proxy beside it."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.manifests import Port
from tests.lab.proxy import CONTROL, TURNS_APART
from userproxy.admin.client import AdminClient, AdminError
from userproxy.admin.paths import ROOTS_SOCKET
from userproxy.demo.traffic import fetch
from userproxy.demo.waiting import eventually

pytestmark = pytest.mark.e2e

CLUSTER_IP = ("10.96.0.10", 80)
NODE_PORT = 30080
REQUESTS = 3 * max(2, int(CONTROL))
"""So many that each of three endpoints has one, however they are spread over data processes that have turns each."""


def serve_web(lab: Lab, *flags: str) -> None:
    lab.serve_http()
    lab.manifests.service("web", ports=[Port(80, "http")], cluster_ip=CLUSTER_IP[0], node_port=NODE_PORT)
    lab.manifests.slice("web", lab.pods, ports=[Port(80, "http")])
    lab.node.start_userproxy(*QUICK, *flags)
    lab.node.wait_for_portal(*CLUSTER_IP)


def admin(lab: Lab) -> AdminClient:
    """Each host has a /run of its own."""
    path = lab.node.path(str(ROOTS_SOCKET))
    eventually(path.exists, 10, "there is an admin socket")
    return AdminClient(path)


def one(lab: Lab, route: str, **parameters: Any) -> dict[str, Any]:
    (item,) = admin(lab).items(route, **parameters)
    return item


@contextmanager
def open_connection(lab: Lab) -> Iterator[socket.socket]:
    """A connection through the portal that stays open; the server waits for its request."""
    with lab.client.connect(CLUSTER_IP) as made:
        yield made


@pytest.mark.parametrize("lab", ["manifests", "api"], indirect=True)
def test_what_is_served_to_whom(lab: Lab) -> None:
    serve_web(lab)
    asked = {fetch(lab.client, CLUSTER_IP).pod for _ in range(REQUESTS)}
    assert asked == {pod.name for pod in lab.pods}
    api = admin(lab)
    eventually(lambda: one(lab, "services")["active"] == 0, 10, "all connections have ended")
    service = one(lab, "services")
    assert service["endpoints"] == {"usable": 3, "all": 3}
    assert (service["total"], service["failed"], service["retried"]) == (REQUESTS, 0, 0)
    assert service["bytes_up"] > 0 < service["bytes_down"]
    assert {"10.96.0.10:80", "0.0.0.0:30080"} <= set(service["portals"])
    endpoints = list(api.items("endpoints"))
    totals = {each["endpoint"]: each["total"] for each in endpoints}
    assert totals.keys() == {f"{pod.address}:8080" for pod in lab.pods}
    assert (sum(totals.values()), max(totals.values()) - min(totals.values()) <= TURNS_APART) == (REQUESTS, True)
    assert all(0 < each["dial_p50_seconds"] <= each["dial_p99_seconds"] < 1 for each in endpoints)
    portals = list(api.items("portals"))
    assert {each["kind"] for each in portals} == {"ClusterIP", "NodePort"}
    assert all(each["in_sync"] and each["local_port"] for each in portals)
    decisions = list(api.items("decisions"))
    assert [each["verdict"] for each in decisions] == ["served"] * REQUESTS
    assert sum(each["bytes_down"] for each in decisions) == service["bytes_down"]


def test_an_open_connection(lab: Lab) -> None:
    serve_web(lab)
    with open_connection(lab) as made:
        found = eventually(lambda: list(admin(lab).items("connections", state="open")), 10, "there is a connection")
        host, port = made.getsockname()
        assert [each["client"] for each in found] == [f"{host}:{port}"]
        assert (found[0]["portal"], found[0]["state"]) == ("10.96.0.10:80", "open")
        assert list(admin(lab).items("connections", client=host))
        assert not list(admin(lab).items("connections", client="10.9.9.9"))
    eventually(lambda: not list(admin(lab).items("connections")), 10, "it is over")


def test_a_watch_tells_of_connections_as_they_come_and_go(lab: Lab) -> None:
    serve_web(lab)
    changes = admin(lab).watch("connections")
    assert next(changes)["type"] == "SYNCED"
    with open_connection(lab):
        assert next(changes)["type"] == "ADDED"
    seen = next(changes)
    while seen["type"] != "DELETED":
        seen = next(changes)
    assert seen["object"]["portal"] == "10.96.0.10:80"


def test_status_and_the_reason_why_an_endpoint_is_not_used(lab: Lab) -> None:
    serve_web(lab)
    eventually(lambda: admin(lab).get("status")["in_sync"], 10, "the sync that the portal came with is over")
    status = admin(lab).get("status")
    assert status["node"] == lab.node.name
    assert {family["family"]: family["in_sync"] for family in status["families"] if family["served"]}["IPv4"]
    assert lab.node.proxies[-1].pid in [each["pid"] for each in status["processes"]]
    lab.manifests.slice("web", lab.pods[:1], ports=[Port(80, "http")])
    eventually(lambda: one(lab, "services")["endpoints"] == {"usable": 1, "all": 1}, 10, "one endpoint is left")


def test_only_root_can_open_it(lab: Lab) -> None:
    serve_web(lab)
    admin(lab)
    found = lab.node.run(["stat", "-c", "%a %U", str(ROOTS_SOCKET)])
    assert found.stdout.split() == ["600", "root"]
    source = f"import socket; socket.socket(socket.AF_UNIX).connect({str(ROOTS_SOCKET)!r})"
    argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", source]
    assert "PermissionError" in lab.node.run(argv, check=False).stderr


def test_a_successor_takes_the_socket_over(lab: Lab) -> None:
    serve_web(lab)
    first = admin(lab).get("version")["pid"]
    with open_connection(lab):  # the old one stays as long as it serves somebody
        second = lab.node.start_userproxy(*QUICK)
        second.wait_log("waiting for its end")
        assert admin(lab).get("version")["pid"] == first
        lab.node.proxies[0].signal(signal.SIGTERM)

        def answers_now() -> bool:
            try:
                return bool(admin(lab).get("version")["pid"] == second.pid)
            except AdminError:
                return False

        eventually(answers_now, 20, "the successor answers")
        assert not [each for each in second.records if "admin socket" in each["event"]]


def test_what_a_killed_one_left_is_replaced_and_another_one_beside_it_says_so(lab: Lab) -> None:
    serve_web(lab)
    admin(lab)
    lab.node.proxies[0].kill()
    lab.node.start_userproxy(*QUICK)
    eventually(lambda: _pid(lab) == lab.node.proxies[1].pid, 20, "the next one answers")
    other = lab.node.start_userproxy(
        *QUICK, "--portals", "none", "--metrics-bind-address", "127.0.0.1:10349", "--healthz-port", "0"
    )
    said = other.wait_log("does not get the admin socket")
    assert (said["level"], said["reason"]) == ("warning", f"process {lab.node.proxies[1].pid} answers there")
    assert _pid(lab) == lab.node.proxies[1].pid


def _pid(lab: Lab) -> int:
    try:
        return int(admin(lab).get("version")["pid"])
    except AdminError:
        return os.getpid()


def test_it_can_be_switched_off_and_put_elsewhere(lab: Lab) -> None:
    serve_web(lab, "--admin-socket", "")
    assert not lab.node.path(str(ROOTS_SOCKET)).exists()
    lab.node.proxies[0].terminate()
    lab.node.start_userproxy(*QUICK, "--admin-socket", "/run/elsewhere/a.sock")
    path = lab.node.path("/run/elsewhere/a.sock")
    eventually(path.exists, 20, "there is a socket elsewhere")
    assert AdminClient(path).get("version")["node"] == lab.node.name
