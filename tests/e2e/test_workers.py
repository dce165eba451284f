"""Data processes: what a kill -9 of one costs under load, what is told of it, and how they end."""

import json
import os
import signal
import sys
import time
from contextlib import ExitStack
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.datagrams import ask, ask_over
from tests.lab.load import SERVER, Load
from tests.lab.manifests import Port
from tests.lab.newcomers import Newcomers
from tests.lab.probes import KeptConnection
from tests.lab.proxy import RunningProxy
from tests.lab.steady import SteadyClient
from userproxy.demo.traffic import fetch, http
from userproxy.demo.waiting import eventually
from userproxy.model import IPFamily

pytestmark = pytest.mark.e2e

WEB = ("10.96.0.10", 80)
STICKY = ("10.96.0.11", 80)
DNS = ("10.96.0.53", 53)
METRICS = ("127.0.0.1", 10249)
HEALTHZ = ("127.0.0.1", 10256)


def serve(lab: Lab, *flags: str) -> RunningProxy:
    lab.serve_http()
    lab.manifests.node(lab.node)
    lab.manifests.service("web", cluster_ip=WEB[0])
    lab.manifests.slice("web", lab.pods)
    proxy = lab.node.start_userproxy(*QUICK, "--workers", "2", *flags)
    lab.node.wait_for_rules("default/web")
    eventually(lambda: len(data_processes(lab)) == 2, 30, "both data processes answer")
    return proxy


def status(lab: Lab) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lab.node.userproxy("status", "-o", "json", check=False).stdout)
    return found


def data_processes(lab: Lab) -> list[int]:
    """The ids of those that serve."""
    return [each["pid"] for each in status(lab)["processes"] if each["role"].startswith("data") and each["pid"]]


def answers(kept: KeptConnection) -> bool:
    try:
        return bool(kept.ask())
    except (OSError, HTTPException):
        return False


def kept_with_both(lab: Lab, stack: ExitStack, least: int) -> list[KeptConnection]:
    """So many connections or more, of which each of two data processes has some. There are to be no others yet."""
    kept: list[KeptConnection] = []

    def served_by() -> set[int]:
        """The processes that have connections, after one more: the other one may have too little CPU just then."""
        kept.append(stack.enter_context(KeptConnection(lab.client, WEB)))
        assert answers(kept[-1])
        if len(kept) < least:
            return set()
        listed = json.loads(lab.node.userproxy("get", "connections", "-o", "json").stdout)["items"]
        assert len(listed) == len(kept)
        return {each["id"] // 10**12 for each in listed}

    eventually(lambda: len(served_by()) == 2, 30, "both processes have connections")
    return kept


def test_killed_one_of_two_costs_its_own_connections_and_nothing_else(lab: Lab) -> None:
    proxy = serve(lab)
    eventually(lambda: len(proxy.processes) == 4, 30, "one waits to replace another")
    with ExitStack() as stack:
        kept = kept_with_both(lab, stack, 20)
        client = stack.enter_context(SteadyClient(lab.client, WEB, rate=100))
        client.go_on(50)
        before = proxy.processes
        victim, survivor = data_processes(lab)
        killed_at = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        record = proxy.wait_log("A data process has ended")
        client.go_on(100)
        alive = sum(map(answers, kept))
        assert 0 < alive < len(kept), "those of the other one go on"
        # A request that was under way over the one that was killed is cut; nobody is refused or waits.
        assert not [each for each in client.failures if "refused" in each.failure.lower() or "timed" in each.failure]
        assert all(each.began < killed for each in client.failures)
        waits = (
            [each.seconds for each in client.attempts if is_after == (each.began > killed_at)] for is_after in (0, 1)
        )
        print("longest waits of new clients before and after the kill, in seconds:", *map(max, waits))
        assert (record["pid"], record["reason"]) == (victim, "SIGKILL")
        eventually(lambda: survivor in data_processes(lab) and len(data_processes(lab)) == 2, 30, "two serve again")
        assert victim not in data_processes(lab)
    metrics = http(lab.node, METRICS, "/metrics").decode()
    assert 'userproxy_data_process_restarts_total{process="0"} 1.0' in metrics
    assert 'userproxy_data_process_restarts_total{process="1"} 0.0' in metrics
    assert status(lab)["problems"] == 1
    eventually(lambda: len(proxy.processes) == len(before), 30, "one more waits to replace another")
    assert proxy.terminate() == 0
    assert not [pid for pid in before if os.path.exists(f"/proc/{pid}") and pid != victim]


def test_new_clients_wait_for_nobody_when_a_process_is_killed(lab: Lab) -> None:
    """Also those of a Service with affinity, which the killed one has served alone. How long they wait is printed."""
    ports = [Port(80, target=9000)]
    for pod in lab.pods:
        pod.serve([sys.executable, "-c", SERVER, pod.name], 9000)
    lab.manifests.node(lab.node)
    for name, address in (("web", WEB), ("sticky", STICKY)):
        lab.manifests.service(name, cluster_ip=address[0], ports=ports, affinity=600 if name == "sticky" else None)
        lab.manifests.slice(name, lab.pods, ports=ports)
    proxy = lab.node.start_userproxy(*QUICK, "--workers", "2")
    for address in (WEB, STICKY):
        lab.node.wait_for_portal(*address)
    eventually(lambda: len(data_processes(lab)) == 2, 30, "both data processes answer")
    with Newcomers(lab.client, (WEB, STICKY), rate=100) as clients:
        for place in (0, 1):  # whichever has the one with affinity
            eventually(lambda: len(proxy.processes) == 4, 30, "one waits to replace another")
            clients.go_on(200)
            before = len(clients.came)
            clients.go_on(200)
            victim = data_processes(lab)[place]
            os.kill(victim, signal.SIGKILL)
            killed = time.monotonic()
            clients.go_on(400)
            came = clients.came[before:]
            assert not [each for each in came if each.failure and each.began > killed]
            assert not [each for each in came if "refused" in each.failure.lower()]
            waits = ([each.waited for each in came if is_after == (each.began > killed)] for is_after in (0, 1))
            print("new clients waited at most, before and after the kill, in seconds:", *map(max, waits))
            wait_until_replaced(lab, victim)
    assert proxy.terminate() == 0


def wait_until_replaced(lab: Lab, victim: int) -> None:
    def is_replaced() -> bool:
        found = data_processes(lab)
        return victim not in found and len(found) == 2

    eventually(is_replaced, 30, "two serve again")


def test_a_crash_loop_backs_off_and_shows_in_healthz_while_the_other_one_serves(lab: Lab) -> None:
    proxy = serve(lab)
    with SteadyClient(lab.client, WEB, rate=50) as client:
        client.go_on(10)
        survivor = data_processes(lab)[1]
        for _ in range(4):
            eventually(lambda: bool(killed(lab, survivor)), 30, "another one serves")
        client.go_on(50)
        assert not [each for each in client.failures if "refused" in each.failure.lower() or "timed" in each.failure]
    answer = http(lab.node, HEALTHZ, "/healthz").decode()
    assert "data process 1 has ended 4 times" in answer
    assert [each["replaced_after_seconds"] for each in proxy.records if "has ended:" in each["event"]][-1] > 0
    eventually(lambda: len(data_processes(lab)) == 2, 30, "it is started again after a pause")
    assert proxy.terminate() == 0


def killed(lab: Lab, survivor: int) -> list[int]:
    others = [pid for pid in data_processes(lab) if pid != survivor]
    for pid in others:
        os.kill(pid, signal.SIGKILL)
    return others


def test_figures_and_connections_are_those_of_all_processes(lab: Lab) -> None:
    serve(lab)
    with ExitStack() as stack:
        kept = kept_with_both(lab, stack, 1)
        eventually(
            lambda: sum(each["connections"] for each in status(lab)["processes"]) == len(kept), 30, "all of them"
        )
        text = http(lab.node, METRICS, "/metrics").decode()
        (line,) = [each for each in text.splitlines() if each.startswith("userproxy_connections_opened_total{")][:1]
        assert line.endswith(f" {len(kept)}.0"), line


def test_the_control_process_is_killed_and_no_client_sees_anything_until_another_one_adopts_the_rest(lab: Lab) -> None:
    proxy = serve(lab)
    proxy.wait_log("Answers to clients' addresses come back here")  # by tables that go with the process that owns them
    with ExitStack() as stack, SteadyClient(lab.client, WEB, rate=50) as client:
        kept = [stack.enter_context(KeptConnection(lab.client, WEB)) for _ in range(12)]
        assert all(map(answers, kept))
        client.go_on(20)
        before = data_processes(lab)
        rules = lab.node.standing()
        os.kill(proxy.pid, signal.SIGKILL)
        client.go_on(100)
        assert all(map(answers, kept)), "nobody is there but data processes"
        successor = lab.node.start_userproxy(*QUICK, "--workers", "2")
        record = successor.wait_log("Data processes are adopted")
        assert sorted(record["pids"]) == sorted(before)
        lab.node.wait_for_rules("default/web")
        eventually(lambda: data_processes(lab) == before, 30, "the new control process is told by them")
        client.go_on(50)
        assert all(map(answers, kept))
        assert lab.node.standing() == rules, "ports are the same, and so are the rules"
        assert [each["connections"] for each in status(lab)["processes"]][2] == 0
        # They follow the new one: an endpoint that goes gets no more clients.
        lab.manifests.slice("web", lab.pods[:1])
        eventually(lambda: {fetched(lab) for _ in range(6)} == {lab.pods[0].name}, 30, "the new snapshot counts")
        assert client.failures == []
    assert successor.terminate() == 0
    eventually(lambda: not any(map(runs, before)), 30, "they end with the control process that has adopted them")


def test_busy_connections_outlive_a_control_process_and_the_beginning_of_the_next_one(lab: Lab) -> None:
    """Answers to clients' own addresses are under way all the time, also while nobody or both have rules for them."""
    for pod in lab.pods:
        pod.serve([sys.executable, "-c", SERVER, pod.name], 9000)
    lab.manifests.node(lab.node)
    lab.manifests.service("web", cluster_ip=WEB[0], ports=[Port(80, target=9000)])
    lab.manifests.slice("web", lab.pods, ports=[Port(80, target=9000)])
    proxy = lab.node.start_userproxy(*QUICK, "--workers", "2")
    lab.node.wait_for_portal(*WEB)
    proxy.wait_log("Answers to clients' addresses come back here")
    eventually(lambda: len(data_processes(lab)) == 2, 30, "both data processes answer")
    before = data_processes(lab)
    load = Load(lab.client, WEB, WEB, kept=40, rate=20, flows=0, megabytes=30)
    with load:
        for _ in range(2):
            go_on(load)
            os.kill(proxy.pid, signal.SIGKILL)
            go_on(load)
            proxy = lab.node.start_userproxy(*QUICK, "--workers", "2")
            proxy.wait_log("Answers to clients' addresses come back here")
            eventually(lambda: data_processes(lab) == before, 30, "the new control process is told by them")
            go_on(load)
    assert load.failures == []
    assert proxy.terminate() == 0
    lab.node.wait_for_no_rules()


def go_on(load: Load, answers: int = 200) -> None:
    """Return once so many more answers have come."""
    asked = load.answers
    eventually(lambda: load.answers > asked + answers or load.failures, 60, "clients are served")
    assert load.failures == []


def test_portals_that_are_listeners_themselves_are_adopted_too(lab: Lab) -> None:
    """The sockets at portals belong to the control process that was killed, and to those that serve on."""
    lab.serve_http()
    lab.manifests.node(lab.node)
    lab.manifests.service("web", cluster_ip=WEB[0])
    lab.manifests.slice("web", lab.pods)
    flags = (*QUICK, "--portals", "local", "--workers", "2")
    proxy = lab.node.start_userproxy(*flags)
    eventually(lambda: fetched(lab), 30, "the portal is served")
    eventually(lambda: len(data_processes(lab)) == 2, 30, "both data processes answer")
    with ExitStack() as stack, SteadyClient(lab.client, WEB, rate=50) as client:
        kept = [stack.enter_context(KeptConnection(lab.client, WEB)) for _ in range(12)]
        assert all(map(answers, kept))
        before = data_processes(lab)
        os.kill(proxy.pid, signal.SIGKILL)
        client.go_on(50)
        successor = lab.node.start_userproxy(*flags)
        assert sorted(successor.wait_log("Data processes are adopted")["pids"]) == sorted(before)
        eventually(lambda: data_processes(lab) == before, 30, "the new control process is told by them")
        client.go_on(50)
        assert all(map(answers, kept))
        lab.manifests.slice("web", lab.pods[:1])
        eventually(lambda: {fetched(lab) for _ in range(6)} == {lab.pods[0].name}, 30, "the new snapshot counts")
        assert client.failures == []
    assert successor.terminate() == 0


def test_a_cleanup_ends_data_processes_whose_control_process_was_killed(lab: Lab) -> None:
    proxy = serve(lab)
    before = data_processes(lab)
    os.kill(proxy.pid, signal.SIGKILL)
    assert fetched(lab), "they serve on"
    said = eventually(lambda: lab.node.userproxy("cleanup", check=False).stdout, 30, "the lease is free").splitlines()
    for pid in before:
        assert f"ended the data process {pid}, whose control process was killed" in said
    assert not any(map(runs, before))
    lab.node.wait_for_no_rules()


def test_a_data_process_that_hangs_is_replaced_and_told_of(lab: Lab) -> None:
    proxy = serve(lab)
    victim, survivor = data_processes(lab)
    os.kill(victim, signal.SIGSTOP)
    with SteadyClient(lab.client, WEB, rate=50) as client:
        record = proxy.wait_log("A data process has ended")
        assert (record["pid"], record["reason"]) == (victim, "SIGKILL, because it had not said anything for 10 s")
        eventually(lambda: survivor in data_processes(lab) and len(data_processes(lab)) == 2, 30, "two serve again")
        client.go_on(50)
        assert client.failures == []
    assert 'restarts_total{process="0"} 1.0' in http(lab.node, METRICS, "/metrics").decode()
    assert status(lab)["problems"] == 1
    assert proxy.terminate() == 0


def test_without_portals_too(lab: Lab) -> None:
    lab.serve_http()
    lab.manifests.service("web", cluster_ip=WEB[0])
    lab.manifests.slice("web", lab.pods)
    proxy = lab.node.start_userproxy(*QUICK, "--portals", "none", "--workers", "2")
    address = proxy.wait_log("Service port reachable")["address"]
    assert fetch(lab.node, ("127.0.0.1", int(address.rpartition(":")[2]))).pod in {pod.name for pod in lab.pods}
    assert proxy.terminate() == 0


def test_a_udp_service_is_served_by_both_and_killed_one_costs_its_own_flows_alone(lab: Lab) -> None:
    lab.serve_http()
    ports = [Port(53, "dns", "UDP")]
    lab.manifests.service("dns", cluster_ip=DNS[0], ports=ports)
    lab.manifests.slices("dns", lab.pods, ports=ports)
    lab.node.start_userproxy(*QUICK, "--workers", "2")
    lab.settle(IPFamily.IPV4)
    eventually(lambda: len(data_processes(lab)) == 2, 30, "both data processes answer")
    with ExitStack() as stack:
        kept = [stack.enter_context(lab.client.udp_socket(DNS)) for _ in range(40)]
        first = [ask_over(sock).pod for sock in kept]
        assert set(first) == {pod.name for pod in lab.pods}
        before = flows(lab)
        assert sum(map(len, before.values())) == len(kept)
        assert min(map(len, before.values())) >= 8, "both have their share"
        victim, survivor = data_processes(lab)
        os.kill(victim, signal.SIGKILL)
        # New clients, of both: at once, for nothing that they send is lost or refused.
        for _ in range(20):
            assert ask(lab.client, DNS, timeout=5).pod
        assert [ask_over(sock).pod for sock in kept], "the others' clients have flows of another process"
        after = flows(lab)
        assert set(before[2]) <= set(after[2]), "those of the other one are what they were"
        eventually(lambda: survivor in data_processes(lab) and len(data_processes(lab)) == 2, 30, "two serve again")
        mine = [number for number, sock in enumerate(kept) if sock.getsockname()[1] in before[2].values()]
        again = [ask_over(sock).pod for sock in kept]
        assert [again[number] for number in mine] == [first[number] for number in mine]
        assert len(mine) == len(before[2])


def flows(lab: Lab) -> dict[int, dict[int, int]]:
    """The ids of flows and their clients' ports, by the incarnation of a data process that has them, from 1 on."""
    found: dict[int, dict[int, int]] = {}
    for each in json.loads(lab.node.userproxy("get", "connections", "-o", "json").stdout)["items"]:
        found.setdefault(each["id"] // 10**12 + 1, {})[each["id"]] = int(each["client"].rpartition(":")[2])
    return found


def runs(pid: int) -> bool:
    """Whether a process runs; one that has ended may still wait for its parent, which is no longer ours."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def fetched(lab: Lab) -> str:
    return fetch(lab.client, WEB).pod
