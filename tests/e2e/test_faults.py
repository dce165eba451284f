"""Faults with real servers and real clients, by the commands."""

import json
import os
import signal
import socket
import sys
import time
from collections import defaultdict
from contextlib import ExitStack, closing
from statistics import median
from typing import Any

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.datagrams import ask_over
from tests.lab.manifests import Port
from tests.lab.probes import ACCEPTED, KeptConnection, try_to_connect
from userproxy.demo.hosts import Address, Host
from userproxy.demo.traffic import fetch
from userproxy.demo.waiting import eventually

pytestmark = pytest.mark.e2e

WEB: Address = ("10.96.0.10", 80)
OTHER: Address = ("10.96.0.20", 80)
BULK: Address = ("10.96.0.30", 80)
DNS: Address = ("10.96.0.53", 53)
SIZE = 2_000_000

BULK_SERVER = f"""
import socketserver
class Bulk(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(bytes({SIZE}))
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
Server(("", 9000), Bulk).serve_forever()
"""


def start(lab: Lab, workers: str) -> None:
    lab.serve_http()
    lab.manifests.service("web", cluster_ip=WEB[0])
    lab.manifests.slice("web", lab.pods)
    lab.manifests.service("other", cluster_ip=OTHER[0])
    lab.manifests.slice("other", lab.pods)
    lab.manifests.service("dns", ports=[Port(53, "dns", protocol="UDP")], cluster_ip=DNS[0])
    lab.manifests.slice("dns", lab.pods, ports=[Port(8080, "dns", protocol="UDP")])
    lab.pods[0].serve_python(BULK_SERVER, 9000)
    lab.manifests.service("bulk", cluster_ip=BULK[0])
    lab.manifests.slice("bulk", lab.pods[:1], ports=9000)
    lab.node.start_userproxy(*QUICK, "--workers", workers, "--allow-faults")
    lab.settle()


def told(lab: Lab, *arguments: str) -> str:
    done = lab.node.userproxy(*arguments)
    assert done.stderr == ""
    return done.stdout


def put(lab: Lab, service: str, *options: str) -> None:
    told(lab, "fault", "set", f"default/{service}", *options, *(() if "--for" in options else ("--for", "5m")))


def connections(lab: Lab, service: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(told(lab, "get", "connections", f"default/{service}", "-o", "json"))[
        "items"
    ]
    return found


def seconds(connection: KeptConnection) -> tuple[str, float]:
    began = time.monotonic()
    pod = connection.ask().pod
    return pod, time.monotonic() - began


def by_pod(kept: list[KeptConnection], times: int = 7) -> dict[str, float]:
    """The least that a question takes, by the Pod that answers."""
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(times):
        for each in kept:
            pod, taken = seconds(each)
            found[pod].append(taken)
    return {pod: min(taken) for pod, taken in found.items()}


@pytest.mark.parametrize("workers", ["0", "2"])
def test_200_ms_are_seen_by_the_clients_of_one_endpoint_of_three(lab: Lab, workers: str) -> None:
    """As 200 ms and at most 20 more, by old and new connections; by nobody else, and by nobody afterwards."""
    start(lab, workers)
    slow = lab.pods[0]
    with ExitStack() as stack:
        kept = [stack.enter_context(KeptConnection(lab.client, WEB)) for _ in range(12)]
        assert by_pod(kept, 1).keys() == {pod.name for pod in lab.pods}
        put(lab, "web", "--endpoint", f"{slow.address}:8080", "--latency", "200ms")
        kept += [stack.enter_context(KeptConnection(lab.client, WEB)) for _ in range(12)]
        others = [stack.enter_context(KeptConnection(lab.client, OTHER)) for _ in range(6)]
        taken = by_pod(kept, 3)
        assert 0.2 <= taken.pop(slow.name) <= 0.22
        assert max(taken.values()) < 0.05
        assert max(by_pod(others).values()) < 0.05
        concerned = [each for each in connections(lab, "web") if each["faults"]]
        assert {each["endpoint"] for each in concerned} == {f"{slow.address}:8080"}
        assert {each["faults"] for each in concerned} == {"fault 1: latency 200ms"}
        assert "fault 1: latency 200ms" in told(lab, "describe", "service", "default/web")
        told(lab, "fault", "clear", "1")
        assert max(by_pod(kept).values()) < 0.05


@pytest.mark.parametrize("workers", ["0", "2"])
def test_it_is_over_in_time(lab: Lab, workers: str) -> None:
    start(lab, workers)
    put(lab, "web", "--latency", "100ms", "--for", "2s")
    with closing(KeptConnection(lab.client, WEB)) as kept:
        assert seconds(kept)[1] >= 0.1
        eventually(lambda: seconds(kept)[1] < 0.1, 20, "the fault is over")
    assert lab.node.userproxy("fault", "list").stderr == "No faults in force.\n"


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_quarter_is_refused(lab: Lab, workers: str) -> None:
    """Of 200 connections, within five standard deviations. What is refused says so."""
    start(lab, workers)
    put(lab, "web", "--refuse", "--percent", "25")
    refused = 0
    for _ in range(200):
        try:
            fetch(lab.client, WEB)
        except OSError:
            refused += 1
    assert 19 <= refused <= 81
    said = told(lab, "observe", "default/web", "--verdict", "reset", "--last", "200")
    assert said.count("fault 1: refuse of 25 %") == refused


def download(host: Host, address: Address) -> tuple[int, float]:
    """Bytes that a server sends until it ends, and seconds from the first byte to the last."""
    with host.connect(address, 60) as sock:
        got = len(sock.recv(1))
        began = time.monotonic()
        while part := sock.recv(1 << 16):
            got += len(part)
        return got, time.monotonic() - began


@pytest.mark.parametrize("workers", ["0", "2"])
def test_bandwidth_is_what_was_asked_for(lab: Lab, workers: str) -> None:
    """Within 10 %, and the rest as fast as before."""
    start(lab, workers)
    put(lab, "bulk", "--bandwidth", "1MB/s")
    got, taken = download(lab.client, BULK)
    assert got == SIZE
    assert 0.9 <= got / taken / 1_000_000 <= 1.1
    told(lab, "fault", "clear", "--all")
    got, taken = download(lab.client, BULK)
    assert got == SIZE
    assert got / taken > 2_000_000


SLOW_CLIENTS = 60


@pytest.mark.parametrize("workers", ["0", "2"])
def test_clients_of_a_throttled_service_who_do_not_read_cost_no_memory_but_a_buffer(lab: Lab, workers: str) -> None:
    """Each 64 KiB that wait for the client, and 64 KiB that wait for those: 8 MB for all, and not 1 MiB for each."""
    start(lab, workers)
    put(lab, "bulk", "--bandwidth", "20MB/s")
    proxy = lab.node.proxies[-1]
    proxy.wait_at_rest()  # else the process in reserve comes meanwhile, and its memory is taken for the clients'
    with closing(lab.client.connect(BULK, 60)) as first:
        assert first.recv(1)
        before = proxy.rss()
        with ExitStack() as stack:
            for _ in range(SLOW_CLIENTS):
                sock = stack.enter_context(lab.client.socket())
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.settimeout(60)
                sock.connect(BULK)
            passed = [-1]

            def all_stand_still() -> bool:
                passed.append(sum(each["bytes_down"] for each in connections(lab, "bulk")))
                return len(set(passed[-3:])) == 1

            eventually(all_stand_still, 60, "no byte passes any more")
            grown = proxy.rss() - before
    print("resident memory for a client who does not read:", grown // SLOW_CLIENTS)
    assert passed[-1] > SLOW_CLIENTS * 64_000
    assert grown < SLOW_CLIENTS * 400_000


def asked_for(kept: list[KeptConnection], times: int = 40) -> list[float]:
    """Seconds that each of many questions takes, over several connections."""
    return [seconds(each)[1] for _ in range(times) for each in kept]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_other_services_are_as_fast_as_ever(lab: Lab, workers: str) -> None:
    """Medians and rates with faults and without, in turns: what differs is noise, not what another Service suffers."""
    start(lab, workers)
    quiet: list[float] = []
    beside: list[float] = []
    with ExitStack() as stack:
        kept = [stack.enter_context(KeptConnection(lab.client, OTHER)) for _ in range(4)]
        slow = [stack.enter_context(KeptConnection(lab.client, WEB)) for _ in range(20)]
        bulk = [stack.enter_context(lab.client.connect(BULK, 60)) for _ in range(3)]
        for _ in range(4):
            quiet += asked_for(kept)
            put(lab, "web", "--latency", "300ms", "--direction", "both")
            put(lab, "bulk", "--bandwidth", "100KB/s")
            for each in slow:
                each.send()
            beside += asked_for(kept)
            for each in slow:
                each.receive()
            told(lab, "fault", "clear", "--all")
        assert all(each.recv(1) for each in bulk)
    assert not any(each["faults"] for each in connections(lab, "other"))
    print("medians without faults and with:", median(quiet), median(beside))
    assert median(beside) < 2 * median(quiet)
    assert sum(quiet) > 0.4 * sum(beside)


def test_a_data_process_in_the_place_of_another_has_the_faults(lab: Lab) -> None:
    start(lab, "2")
    put(lab, "web", "--latency", "100ms")
    proxy = lab.node.proxies[-1]
    before = proxy.processes[1:]
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not set(before) & set(proxy.processes) and len(proxy.processes) > 2, 30, "others are there")
    eventually(lambda: try_to_connect(lab.client, WEB) == ACCEPTED, 30, "clients are served")
    with ExitStack() as stack:
        kept = [stack.enter_context(KeptConnection(lab.client, WEB)) for _ in range(12)]
        assert min(seconds(each)[1] for each in kept) >= 0.1
        told(lab, "fault", "clear", "--all")
        eventually(lambda: max(by_pod(kept, 1).values()) < 0.1, 20, "the faults are over")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_connection_is_reset_after_what_it_may_pass(lab: Lab, workers: str) -> None:
    start(lab, workers)
    put(lab, "bulk", "--reset-after", "64KB")
    got = 0
    with lab.client.connect(BULK) as sock:
        while got < 64_000:
            part = sock.recv(1 << 16)
            assert part
            got += len(part)
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert got == 64_000


@pytest.mark.parametrize("workers", ["0", "2"])
def test_datagrams_are_late_or_lost(lab: Lab, workers: str) -> None:
    start(lab, workers)
    slow = lab.pods[0]
    put(lab, "dns", "--endpoint", f"{slow.address}:8080", "--latency", "150ms")
    with ExitStack() as stack:
        for _ in range(9):
            client = stack.enter_context(lab.client.udp_socket(DNS))
            began = time.monotonic()
            pod = ask_over(client).pod
            assert (time.monotonic() - began >= 0.15) is (pod == slow.name)
        told(lab, "fault", "clear", "--all")
        put(lab, "dns", "--drop", "--direction", "up")
        client = stack.enter_context(lab.client.udp_socket(DNS, 0.5))
        with pytest.raises(TimeoutError):
            ask_over(client)
        told(lab, "fault", "clear", "--all")
        ask_over(client)


DIES = """
import asyncio, os, socket
from userproxy import __version__
from userproxy.forwarding.handover.values import release
from userproxy.processes.channel import Channel, Decoder
from userproxy.processes.takeover.messages import PROTOCOL, Ask, Ready, Refusal, ToSuccessor

def ask(setup):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect("/run/userproxy/admin.sock.takeover")
    channel = Channel(asyncio.get_running_loop(), sock, Decoder(ToSuccessor), heard, print)
    channel.send(Ask(PROTOCOL, release(), __version__, setup))

def heard(message, descriptors):
    if isinstance(message, Refusal):  # it says what it serves
        ask(message.reason.partition(", and not ")[2])
    elif isinstance(message, Ready):
        os._exit(0)

async def main():
    ask("")
    await asyncio.sleep(60)

asyncio.run(main())
"""
"""A successor that is told of everything, and dies before it says that it has it."""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_they_are_suffered_again_when_a_successor_has_died(lab: Lab, workers: str) -> None:
    start(lab, workers)
    put(lab, "web", "--latency", "300ms")
    old = lab.node.proxies[-1]
    listed = told(lab, "fault", "list")
    with KeptConnection(lab.client, WEB) as connection:
        assert seconds(connection)[1] >= 0.3
        lab.node.run([sys.executable, "-c", DIES])
        old.wait_log("A successor could not take over: serving on")
        eventually(lambda: seconds(connection)[1] >= 0.3, 20, "it is slow again")
    with KeptConnection(lab.client, WEB) as another:
        assert seconds(another)[1] >= 0.3
    assert told(lab, "fault", "list") == listed
    assert old.running
