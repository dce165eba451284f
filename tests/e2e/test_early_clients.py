"""Who dials while no rule stands is served as soon as one does: by the next SYN, and not after two minutes."""

import asyncio
import errno
import os
import select
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest

from tests.lab.cluster import QUICK, Lab
from userproxy.demo.hosts import Host
from userproxy.demo.waiting import eventually
from userproxy.model import IPFamily, Protocol
from userproxy.portals.netlink.conntrack import Conntrack, ConntrackEntry

pytestmark = pytest.mark.e2e

CLIENTS = 25
WEB = ["10.96.0.10", "fd00:10:96::10"]
REPEATED = 5.0
"""Seconds in which a client sends a SYN after the first one, twice: after one second and after three."""


DIALLED = {family: (ip, 80) for family, ip in zip(IPFamily, WEB, strict=True)}


def waiting(family: IPFamily) -> int:
    """How many connections to the Service await an answer, as the conntrack of the node that calls this has it."""
    seen: list[ConntrackEntry] = []

    def look(entry: ConntrackEntry) -> bool:
        seen.append(entry)
        return False

    asyncio.run(Conntrack(family).delete((Protocol.TCP,), look))
    return sum((entry.destination, entry.port) == DIALLED[family] for entry in seen)


@contextmanager
def dialling(lab: Lab, hosts: Sequence[Host]) -> Iterator[list[socket.socket]]:
    """Clients on each of these hosts, in both families, whose first SYN has gone past the node."""
    lab.network.lan.ip_batch([f"route add blackhole {ip}" for ip in WEB])  # as most networks: no answer at all
    with ExitStack() as stack:
        clients = []
        for host in hosts:
            for family, kind in ((IPFamily.IPV4, socket.AF_INET), (IPFamily.IPV6, socket.AF_INET6)):
                for _ in range(CLIENTS):
                    client = stack.enter_context(host.inside(socket.socket, kind, socket.SOCK_STREAM))
                    client.setblocking(False)
                    assert client.connect_ex(DIALLED[family]) == errno.EINPROGRESS
                    clients.append(client)
        for family in IPFamily:
            gone = partial(lab.node.inside, waiting, family)
            eventually(lambda gone=gone: gone() == CLIENTS * len(hosts), 10, "the SYNs have gone past")  # type: ignore[misc]
        yield clients


def outcomes(clients: Sequence[socket.socket], seconds: float) -> Counter[str]:
    """What has become of them after so long at most."""
    pending = {client.fileno(): client for client in clients}
    poll = select.poll()
    for number in pending:
        poll.register(number, select.POLLOUT)
    deadline = time.monotonic() + seconds
    found: Counter[str] = Counter()
    while pending and (left := deadline - time.monotonic()) > 0:
        for number, _ in poll.poll(left * 1000):
            poll.unregister(number)
            error = pending.pop(number).getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            found[os.strerror(error) if error else "connected"] += 1
    found["hanging"] = len(pending)
    return +found


def test_clients_that_dial_a_service_before_it_is_there(lab: Lab) -> None:
    lab.serve_http()
    lab.node.start_userproxy(*QUICK, "-v", "2")
    lab.settle(*IPFamily)
    with dialling(lab, [lab.client, lab.node]) as clients:
        lab.manifests.service("web", cluster_ip=WEB)
        lab.manifests.slices("web", lab.pods)
        for family in IPFamily:
            lab.node.wait_for_rules("default/web", families=[family])
        assert outcomes(clients, REPEATED) == {"connected": len(clients)}


def test_clients_that_dial_while_the_rules_are_gone(lab: Lab) -> None:
    lab.serve_http()
    lab.manifests.service("web", cluster_ip=WEB)
    lab.manifests.slices("web", lab.pods)
    proxy = lab.node.start_userproxy(*QUICK, "--iptables-sync-period", "1s")
    lab.settle(*IPFamily)
    proxy.signal(signal.SIGSTOP)
    for program in ("iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy"):
        lab.node.run([program, "-t", "nat", "-F"], check=False)
    with dialling(lab, [lab.client, lab.node]) as clients:
        proxy.signal(signal.SIGCONT)
        for family in IPFamily:
            lab.node.wait_for_rules("default/web", families=[family])
        assert outcomes(clients, REPEATED) == {"connected": len(clients)}
