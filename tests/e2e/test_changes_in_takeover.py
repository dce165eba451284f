"""Endpoints go on changing while one userproxy hands everything over to another, which takes its time."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.load import SERVER
from tests.lab.manifests import Port
from tests.lab.proxy import RunningProxy
from userproxy.demo.waiting import eventually

pytestmark = pytest.mark.e2e

DNS: Final = ("10.96.0.10", 9000)
PORTS: Final = [Port(9000, "tcp", "TCP", 9000), Port(9000, "udp", "UDP", 9000)]
OTHERS: Final = 800
"""Services that are handed over before the last: so many take a few tenths of a second."""

_ESTABLISHED: Final = "03"
"""The state of a connection in /proc/net/unix."""


def others() -> Iterator[dict[str, Any]]:
    """The Services that keep a hand-over busy, each with an endpoint, which nobody asks."""
    for number in range(OTHERS):
        name = f"other-{number}"
        yield {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": "default", "name": name},
            "spec": {"clusterIP": f"10.97.{number // 250}.{number % 250 + 1}", "ports": [{"port": 80}]},
        }
        yield {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 8080}],
            "endpoints": [{"addresses": ["192.0.2.9"]}],
        }


def is_asked(old: RunningProxy) -> bool:
    """Whether a successor is connected to it."""
    lines = Path(f"/proc/{old.pid}/net/unix").read_text().splitlines()
    return any(line.endswith(".takeover") and line.split()[5] == _ESTABLISHED for line in lines)


@contextmanager
def stopped(proxy: RunningProxy) -> Iterator[None]:
    """It does nothing meanwhile."""
    proxy.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        proxy.signal(signal.SIGCONT)


def served_by(lab: Lab) -> tuple[str, str]:
    """Which Pods serve a new client over TCP and one over UDP."""
    with lab.client.connect(DNS) as sock:
        sock.sendall(b"keep\nx\n")
        by_tcp = sock.recv(100).decode().split()[0]
    with lab.client.udp_socket(DNS) as sock:
        sock.send(b"1")
        return by_tcp, sock.recv(100).decode().split()[0]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_new_clients_meet_other_endpoints_in_a_hand_over_and_after_it(lab: Lab, workers: str) -> None:
    first, second, third = lab.pods[:3]
    for pod in lab.pods:
        pod.serve([sys.executable, "-c", SERVER, pod.name], 9000)
    lab.manifests.write("others.yaml", *others())
    lab.manifests.service("dns", ports=PORTS, cluster_ip=DNS[0])
    lab.manifests.slice("dns", [first], ports=PORTS)
    old = lab.node.start_userproxy(*QUICK, "--workers", workers)
    lab.node.wait_for_portal(*DNS, seconds=60)
    eventually(lambda: served_by(lab) == (first.name,) * 2, 30, "clients are served")
    new = lab.node.start_userproxy(*QUICK, "--workers", workers, "--takeover")
    eventually(lambda: is_asked(old), 60, "a successor asks")
    with stopped(new):
        lab.manifests.slice("dns", [second], ports=PORTS)
        eventually(lambda: served_by(lab) == (second.name,) * 2, 5, "new clients meet the other Pod")
        assert is_asked(old), "it is handed over meanwhile"
    new.wait_log("Taken over", 60)
    assert old.wait(30) == 0
    for _ in range(10):
        assert served_by(lab) == (second.name,) * 2
    lab.manifests.slice("dns", [third], ports=PORTS)
    eventually(lambda: served_by(lab) == (third.name,) * 2, 30, "changes are followed after it, too")
