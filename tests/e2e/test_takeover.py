"""What clients notice when one userproxy takes over from another: nothing."""

import json
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.lab.cluster import QUICK, Cell, Lab
from tests.lab.drivers import DRIVERS
from tests.lab.load import SERVER, Load, Longest
from tests.lab.manifests import Port
from tests.lab.probes import KeptConnection, get
from tests.lab.proxy import CONTROL, RunningProxy
from tests.lab.rules import rules
from userproxy.demo.waiting import eventually
from userproxy.model import IPFamily

pytestmark = pytest.mark.e2e

WEB, STICKY = ("10.96.0.10", 9000), ("10.96.0.11", 9000)
PORTS = [Port(9000, "tcp", "TCP", 9000), Port(9000, "udp", "UDP", 9000)]


OTHER_RELEASE = Path(__file__).parents[1] / "lab" / "other_release"
MANY = int(os.environ.get("USERPROXY_TAKEOVERS", "0"))


def serve(lab: Lab, *flags: str, env: Mapping[str, str] | None = None, workers: str = CONTROL) -> RunningProxy:
    for pod in lab.pods:
        pod.serve([sys.executable, "-c", SERVER, pod.name], 9000)
    lab.manifests.node(lab.node)
    lab.manifests.service("web", ports=PORTS, cluster_ip=WEB[0], node_port=30080)
    lab.manifests.service("sticky", ports=PORTS, cluster_ip=STICKY[0], affinity=600)
    for name in ("web", "sticky"):
        lab.manifests.slice(name, lab.pods, ports=PORTS)
    proxy = lab.node.start_userproxy(*QUICK, "--workers", workers, *flags, env=env)
    lab.node.wait_for_portal(*WEB)
    lab.node.wait_for_portal(*STICKY)
    lab.settle()
    return proxy


def standing_rules(lab: Lab) -> list[str]:
    """All rules of the node, without their counters."""
    return rules(lab.node, IPFamily.IPV4)


def take_over(lab: Lab, old: RunningProxy, *flags: str) -> RunningProxy:
    """Another userproxy in the place of `old`, which has ended well."""
    new = lab.node.start_userproxy(*QUICK, "--takeover", *flags)
    new.wait_log("Taken over", 60)
    assert old.wait(30) == 0
    return new


def served(load: Load, answers: int = 200) -> None:
    """Return once so many more answers have come."""
    asked = load.answers
    eventually(lambda: load.answers > asked + answers or load.failures, 60, "clients are served")
    assert load.failures == []


def pause_of(old: RunningProxy) -> float:
    """For how many seconds its clients were not served, as it says itself."""
    return float(next(each["pause_seconds"] for each in old.records if "pause_seconds" in each))


def under_load(lab: Lab, workers: Sequence[str], load: Load, old: RunningProxy) -> RunningProxy:
    """The last of several successors, with so many data processes each, that have taken over under load."""
    before = standing_rules(lab)
    waits: list[tuple[Longest, ...]] = []
    pauses = []
    with load:
        for number in workers:
            served(load)
            quiet = load.forget()
            successor = lab.node.start_userproxy(*QUICK, "--workers", number, "--takeover")
            successor.wait_log("userproxy starts", 60)
            start = load.forget()  # importing a program takes all of a core, and has nothing to do with us
            successor.wait_log("Taken over", 60)
            assert old.wait(30) == 0
            served(load)
            pauses.append(pause_of(old))
            waits.append((quiet, start, load.forget()))
            old = successor
            assert load.failures == []
        eventually(lambda: load.transfers >= 2, 120, "transfers end")
    assert load.failures == []
    assert len(load.pods) == 1, "clients with affinity have met one Pod"
    assert standing_rules(lab) == before
    print("nobody was served for, in seconds:", pauses)
    print("longest under way before, while the successor starts, and then, in seconds; as clients saw it, and in Pods:")
    print(*("  ".join(map(str, each)) for each in waits), sep="\n")
    return old


@pytest.mark.sampled(2)
@pytest.mark.parametrize("cell", [Cell(driver) for driver in DRIVERS.values()], ids=str, indirect=True)
def test_nobody_notices_a_few_take_overs(lab: Lab) -> None:
    old = serve(lab)
    load = Load(lab.client, WEB, STICKY, kept=100, rate=40, flows=40, megabytes=200)
    under_load(lab, [CONTROL] * 3, load, old)


@pytest.mark.parametrize("workers", ["22", "020", "421"])
def test_nobody_notices_that_data_processes_become_others_or_more_or_fewer(lab: Lab, workers: str) -> None:
    old = serve(lab, workers=workers[0])
    load = Load(lab.client, WEB, STICKY, kept=60, rate=20, flows=20, megabytes=50)
    under_load(lab, workers[1:], load, old)


def asked_over(sock: socket.socket) -> bytes:
    """Which Pod answers, and the port that it sees."""
    sock.send(b"1")
    return sock.recv(100)


@pytest.mark.parametrize("before", ["0", "1"])
def test_a_udp_service_that_one_process_has_read_is_read_by_all_of_the_next(lab: Lab, before: str) -> None:
    old = serve(lab, workers=before)
    with ExitStack() as stack:
        kept = [stack.enter_context(lab.client.udp_socket(WEB)) for _ in range(20)]
        seen = [asked_over(sock) for sock in kept]
        take_over(lab, old, "--workers", "2")
        assert [asked_over(sock) for sock in kept] == seen, "no flow has moved"
        ids = flows(lab)
        assert len(ids) == len(kept)
        for sock in [stack.enter_context(lab.client.udp_socket(WEB)) for _ in range(40)]:
            asked_over(sock)
        by_process = Counter(each // 10**12 for each in flows(lab) - ids)
        assert by_process.total() == 40
        assert len(by_process) == 2, "both have new clients"
        assert [asked_over(sock) for sock in kept] == seen


def flows(lab: Lab) -> set[int]:
    """The ids of UDP flows; each process numbers its own from a multiple of 10^12 on."""
    items = json.loads(lab.node.userproxy("get", "connections", "-o", "json").stdout)["items"]
    return {each["id"] for each in items if each["protocol"] == "UDP"}


@pytest.mark.timeout(1200)
@pytest.mark.skipif(not MANY, reason="takes minutes: USERPROXY_TAKEOVERS=20 says how many there are to be")
@pytest.mark.parametrize("workers", ["0", "2"])
def test_twenty_take_overs_leave_descriptors_and_memory_as_they_were(lab: Lab, workers: str) -> None:
    old = serve(lab, workers=workers)
    descriptors, memory = old.descriptors_at_rest(), old.rss()
    load = Load(lab.client, WEB, STICKY, kept=500, rate=200, flows=500, megabytes=1024)
    new = under_load(lab, [workers] * MANY, load, old)
    print("descriptors and memory before, and after:", descriptors, memory, new.descriptors(), new.rss())
    eventually(lambda: new.descriptors() <= descriptors + 20, 200, "flows end, and descriptors are as before")
    assert new.rss() < 1.5 * memory


def test_health_node_ports_claims_and_the_admin_api_go_on(lab: Lab) -> None:
    old = serve(lab)
    old.wait_log("userproxy starts")
    with KeptConnection(lab.client, (lab.node.address, 10256)) as kept:
        kept._connection.request("GET", "/healthz")
        assert kept._connection.getresponse().read()
    failures = []
    new = lab.node.start_userproxy(*QUICK, "--takeover")
    while not any("Taken over" in line for line in new.lines) or old.running:
        for port, path in ((10256, "/livez"), (10249, "/proxyMode")):
            try:
                probe(lab, port, path)
            except OSError as error:
                failures.append(f"{port}: {error!r}")
        assert new.running
    assert failures == []
    status = lab.node.userproxy("status").stdout
    assert str(new.pid) in status or "yes" in status.lower()
    claimed = lab.node.run([sys.executable, "-c", "import socket; socket.socket().bind(('', 30080))"], check=False)
    assert "Address already in use" in claimed.stderr
    assert new.terminate() == 0
    lab.node.wait_for_no_portal(*WEB)


def probe(lab: Lab, port: int, path: str) -> None:
    if port == 10256:
        get(lab.node, ("127.0.0.1", port), path)
        return
    with lab.node.connect(("127.0.0.1", port)) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert sock.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_successor_leaves_the_processor_to_its_predecessor_until_it_takes_over(lab: Lab) -> None:
    old = serve(lab, workers="2")
    before = nice(old.pid)
    old.wait_at_rest()
    old.signal(signal.SIGSTOP)  # it does not hear that there is a successor
    new = lab.node.start_userproxy(*QUICK, "--workers", "2", "--takeover")
    eventually(lambda: len(new.processes) == 3, 60, "its data processes start")
    assert {nice(each) for each in new.processes} == {before + 5}
    old.signal(signal.SIGCONT)
    new.wait_log("Taken over", 60)
    eventually(lambda: {nice(each) for each in new.processes} == {before}, 20, "it has no other place than others")
    assert new.terminate() == 0


def nice(pid: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, pid)


def test_a_service_that_goes_while_a_successor_starts_is_not_served_by_it(lab: Lab) -> None:
    old = serve(lab)
    lab.node.wait_for_portal(*STICKY)
    old.signal(signal.SIGSTOP)  # it does not hear of what follows
    lab.manifests.remove(lab.manifests.service("sticky", ports=PORTS, cluster_ip=STICKY[0], affinity=600))
    new = lab.node.start_userproxy(*QUICK, "--takeover")
    old.signal(signal.SIGCONT)
    new.wait_log("Taken over", 60)
    lab.node.wait_for_no_portal(*STICKY)
    with lab.client.connect(WEB) as sock:
        sock.sendall(b"keep\nx\n")
        assert sock.recv(100).endswith(b" x\n")


def test_without_a_predecessor_it_starts_as_usual(lab: Lab) -> None:
    proxy = serve(lab, "--takeover")
    proxy.wait_log("Nobody to take over from")
    assert proxy.terminate() == 0


def test_to_another_release_listeners_are_handed_over_and_connections_stay(lab: Lab) -> None:
    old = serve(lab, workers="1")
    before = standing_rules(lab)
    with lab.client.connect(WEB) as sock:
        sock.sendall(b"keep\nx\n")
        assert sock.recv(100).endswith(b" x\n")
        new = lab.node.start_userproxy(*QUICK, "--takeover", env={"PYTHONPATH": str(OTHER_RELEASE)})
        new.wait_log("Listeners taken over", 60)
        sock.sendall(b"y\n")
        assert sock.recv(100).endswith(b" y\n")
        with lab.client.connect(WEB) as other:
            other.sendall(b"keep\nz\n")
            assert other.recv(100).endswith(b" z\n")
        assert old.running
    assert old.wait(40) == 0
    assert standing_rules(lab) == before


@pytest.mark.parametrize("at", [signal.SIGKILL, signal.SIGSTOP])
def test_a_successor_that_dies_or_stops_before_it_serves_costs_nothing(lab: Lab, at: signal.Signals) -> None:
    old = serve(lab)
    load = Load(lab.client, WEB, STICKY, kept=50, rate=20, flows=20, megabytes=50)
    with load:
        served(load)
        for _ in range(2):
            new = lab.node.start_userproxy(*QUICK, "--takeover")
            new.wait_log("userproxy starts", 60)
            new.signal(at)
            served(load)
            new.kill()
            if not old.running:  # it was fast
                pytest.skip("the successor had taken over already")
    assert load.failures == []
    assert take_over(lab, old).terminate() == 0


def test_a_signal_starts_the_successor_and_systemd_hears_of_it(lab: Lab, tmp_path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        old = serve(lab, env={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert manager.recv(200) == f"MAINPID={old.pid}\nREADY=1".encode()
        with lab.client.connect(WEB) as sock:
            sock.sendall(b"keep\nx\n")
            assert sock.recv(100).endswith(b" x\n")
            old.signal(signal.SIGUSR2)
            successor = int(old.wait_log("A successor is started", 30)["process"])
            try:
                said = [manager.recv(200).decode() for _ in range(3)]
                assert f"MAINPID={successor}" in said
                assert f"MAINPID={successor}\nREADY=1" in said
                assert old.wait_for_exit() == 0
                sock.sendall(b"y\n")
                assert sock.recv(100).endswith(b" y\n")
            finally:
                os.kill(successor, signal.SIGKILL)


def test_who_is_to_wait_ends_only_when_told_to(lab: Lab) -> None:
    old = serve(lab, "--after-takeover", "wait")
    new = lab.node.start_userproxy(*QUICK, "--takeover", "--after-takeover", "wait")
    new.wait_log("Taken over", 60)
    old.wait_log("Waiting to be told to exit")
    shown = lab.node.run(["ss", "-Hltnpx"]).stdout.splitlines()
    assert any(f"pid={new.pid}," in line for line in shown)
    assert not any(f"pid={old.pid}," in line and "LISTEN" in line for line in shown), "that would answer for the other"
    assert old.running
    assert old.terminate(10) == 0
    with lab.client.connect(WEB) as sock:
        sock.sendall(b"keep\nx\n")
        assert sock.recv(100).endswith(b" x\n")
    lab.node.wait_for_portal(*WEB)
