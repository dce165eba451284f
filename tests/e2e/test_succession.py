"""What is listed, counted, captured and limited goes on in the userproxy that takes over from another."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from tests.admin.pcapng.reader import read
from tests.e2e.test_limits import ECHO_AND_STAY, HOARD
from tests.forwarding.observation.recorded import complaints
from tests.lab.cluster import QUICK, Lab
from tests.lab.datagrams import ask, ask_over
from tests.lab.manifests import Port
from tests.lab.probes import KeptConnection
from tests.lab.proxy import CONTROL, RunningProxy, installed_command
from tests.telemetry.exposition import faults, samples, value
from userproxy.admin.client import AdminClient
from userproxy.admin.paths import ROOTS_SOCKET
from userproxy.demo.traffic import fetch, http
from userproxy.demo.waiting import eventually

pytestmark = pytest.mark.e2e

Item = dict[str, Any]

FLAGS = (*QUICK, "--allow-capture", "--udp-timeout", "10m")

WEB, FEW, DNS = ("10.96.0.10", 80), ("10.96.0.11", 80), ("10.96.0.53", 53)
METRICS = ("127.0.0.1", 10249)
REQUESTS, KEPT, MOST = 12, 8, 4
TIMES = frozenset({"age_seconds", "idle_seconds"})


class Said(Struct):
    """What a userproxy says of itself."""

    services: list[Item]
    endpoints: list[Item]
    connections: list[Item]
    decisions: list[Item]
    metrics: str

    @classmethod
    def of(cls, lab: Lab) -> "Said":
        return cls(
            items(lab, "services"), items(lab, "endpoints"), items(lab, "connections"), decisions(lab), text_of(lab)
        )


class TakenOver(Struct):
    """A userproxy that has taken over, its clients, and what was said before and after."""

    lab: Lab
    proxy: RunningProxy
    kept: list[KeptConnection]
    few: list[KeptConnection]
    flows: list[socket.socket]
    pods: list[str]
    before: Said
    after: Said
    captured: Path


def items(lab: Lab, kind: str) -> list[Item]:
    """All of a list, in an order of their own, without how old they are."""
    found = json.loads(lab.node.userproxy("get", kind, "-A", "-o", "json").stdout)["items"]
    return sorted(({name: each[name] for name in sorted(each.keys() - TIMES)} for each in found), key=repr)


def decisions(lab: Lab, *arguments: str) -> list[Item]:
    lines = lab.node.userproxy("observe", "--last", "1000", *arguments, "-o", "json").stdout.splitlines()
    return [json.loads(line) for line in lines]


def text_of(lab: Lab) -> str:
    return http(lab.node, METRICS, "/metrics").decode()


def of(found: list[Item], name: str) -> Item:
    """The one Service of this name."""
    (service,) = (each for each in found if each["name"] == name)
    return service


def serve(lab: Lab) -> RunningProxy:
    """Services without a limit, with one of connections, and with one of UDP flows."""
    lab.serve_http()
    limited = {"userproxy.io/max-connections": str(MOST), "userproxy.io/overflow": "refuse"}
    dns = [Port(53, "dns", "UDP", target=8080)]
    lab.manifests.service("web", cluster_ip=WEB[0])
    lab.manifests.service("few", cluster_ip=FEW[0], annotations=limited)
    lab.manifests.service("dns", cluster_ip=DNS[0], ports=dns, annotations=limited)
    for name in ("web", "few"):
        lab.manifests.slice(name, lab.pods)
    lab.manifests.slice("dns", lab.pods, ports=dns)
    proxy = lab.node.start_userproxy(*FLAGS)
    lab.settle()
    return proxy


def is_refused(lab: Lab) -> bool:
    """Whether one more client of the Service with a limit is reset."""
    try:
        with KeptConnection(lab.client, FEW) as client:
            return not client.ask()
    except ConnectionResetError:
        return True


def let_in(lab: Lab) -> KeptConnection | None:
    """One more client of that Service, who stays; None if it is reset."""
    client = KeptConnection(lab.client, FEW)
    try:
        client.ask()
    except ConnectionResetError:
        client.close()
        return None
    return client


@contextmanager
def capturing(lab: Lab, file: Path) -> Iterator["subprocess.Popen[str]"]:
    path = lab.node.path(str(ROOTS_SOCKET))
    command = [installed_command(), "capture", "default/web", "--pcap", str(file), "--admin-socket", str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "Capturing to" in process.stderr.readline()
        yield process


@pytest.fixture(scope="module")
def taken(shared_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TakenOver]:
    lab, file = shared_lab, tmp_path_factory.mktemp("captured") / "before.pcapng"
    old = serve(lab)
    with ExitStack() as stack:
        for _ in range(REQUESTS):
            fetch(lab.client, WEB)
        kept = [stack.enter_context(KeptConnection(lab.client, WEB)) for _ in range(KEPT)]
        few = [stack.enter_context(KeptConnection(lab.client, FEW)) for _ in range(MOST)]
        flows = [stack.enter_context(lab.client.udp_socket(DNS)) for _ in range(MOST)]
        assert all(each.ask().pod for each in (*kept, *few))
        pods = [ask_over(flow).pod for flow in flows]
        assert is_refused(lab)
        eventually(lambda: of(items(lab, "services"), "web")["active"] == KEPT, 30, "the others have ended")
        with capturing(lab, file) as capture:
            kept[0].ask()
            before = Said.of(lab)
            new = lab.node.start_userproxy(*FLAGS, "--takeover")
            said = new.wait_log("Taken over", 60)
            assert (said["connections"], said["udp_flows"]) == (KEPT + MOST, MOST)
            assert old.wait(30) == 0
            assert capture.wait(30) == 1
            assert capture.stderr is not None
            assert "breaks off" in capture.stderr.read(), "it is said that there may have been more"
        yield TakenOver(lab, new, kept, few, flows, pods, before, Said.of(lab), file)


def test_lists_are_the_same(taken: TakenOver) -> None:
    before, after = taken.before, taken.after
    assert len(after.connections) == KEPT + 2 * MOST
    assert sum(each["total"] for each in after.services) == REQUESTS + KEPT + 2 * MOST
    assert after.connections == before.connections
    assert after.services == before.services
    assert after.endpoints == before.endpoints


def test_decisions_are_remembered_and_new_ones_follow(taken: TakenOver) -> None:
    assert [told(each) for each in taken.after.decisions] == [told(each) for each in taken.before.decisions]
    assert [each["verdict"] for each in taken.after.decisions].count("served") == REQUESTS
    fetch(taken.lab.client, WEB)
    eventually(
        lambda: decisions(taken.lab, "--last", "1")[0]["time"] > taken.after.decisions[-1]["time"], 30, "one more"
    )


def told(decision: Item) -> Item:
    """Without its time, which each process computes from a clock that is not that of the day."""
    return {name: decision[name] for name in decision.keys() - {"time"}}


def test_metrics_go_on(taken: TakenOver) -> None:
    """Those of clients, that is: how often rules were written is each process's own."""
    assert faults(taken.after.metrics) == []
    before, after = samples(taken.before.metrics), samples(taken.after.metrics)
    mine = {key for key in before if "service" in dict(key[1])}
    assert len(mine) > 100
    assert {key: after.get(key) for key in mine} == {key: before[key] for key in mine}
    text = taken.after.metrics
    assert value(text, "userproxy_connections_opened_total", service="web") == REQUESTS + KEPT
    assert value(text, "userproxy_connections_active", service="web") == KEPT
    assert value(text, "userproxy_process_connections") == KEPT + 2 * MOST
    processes = {dict(key[1])["process"] for key in after if key[0] == "userproxy_process_connections"}
    assert len(processes) == max(1, int(CONTROL) + bool(int(CONTROL)))


def test_the_admin_api_serves_in_pages_and_tells_of_ends(taken: TakenOver) -> None:
    api = AdminClient(taken.lab.node.path(str(ROOTS_SOCKET)))
    assert api.get("version")["pid"] == taken.proxy.pid
    ids = {each["id"] for each in taken.before.connections if each["service"] == "default/web"}
    assert {each["id"] for each in api.items("connections", service="web", limit=3)} == ids
    watch = api.watch("connections", service="web")
    assert {next(watch)["object"]["id"] for _ in ids} == ids
    assert next(watch)["type"] == "SYNCED"
    assert watch_until_deleted(watch, taken.kept.pop()) in ids


def watch_until_deleted(watch: Iterator[Item], connection: KeptConnection) -> int:
    """The id of the connection that is told to have ended, after this one has said something and is closed."""
    connection.ask()
    connection.close()
    return int(next(each["object"]["id"] for each in watch if each["type"] == "DELETED"))


def test_a_capture_ends_whole_and_the_next_one_has_the_connections_that_were_handed_over(
    taken: TakenOver, tmp_path: Path
) -> None:
    assert requests(taken.captured) == 1, "what passed before the take-over"
    file = tmp_path / "after.pcapng"
    with capturing(taken.lab, file) as capture:
        assert all(each.ask().pod for each in taken.kept)
        fetch(taken.lab.client, WEB)
        eventually(lambda: requests(file) == len(taken.kept) + 1, 30, "all have passed")
        capture.send_signal(signal.SIGINT)
        assert capture.wait(30) == 0
    assert complaints(file) == ""


def requests(file: Path) -> int:
    """How many were sent by clients, not yet counting those that go to endpoints."""
    packets = read(file.read_bytes()).packets
    return sum(each.payload.startswith(b"GET / ") and each.destination == WEB for each in packets)


def test_the_limit_of_connections_counts_those_that_were_handed_over(taken: TakenOver) -> None:
    lab = taken.lab
    assert is_refused(lab)
    eventually(lambda: of(items(lab, "services"), "few")["limited"] == 2, 30, "one before and one since")
    assert "as many as userproxy.io/max-connections allows" in decisions(lab, "default/few")[-1]["reason"]
    taken.few.pop().close()
    with ExitStack() as stack:
        another = eventually(lambda: let_in(lab), 30, "there is room for one")
        assert another is not None
        taken.few.append(stack.enter_context(another))
        assert all(each.ask().pod for each in taken.few)
        assert is_refused(lab)


def test_the_limit_of_flows_counts_those_that_were_handed_over(taken: TakenOver) -> None:
    lab = taken.lab
    with pytest.raises(TimeoutError):
        ask(lab.client, DNS, 1)
    eventually(lambda: of(items(lab, "services"), "dns")["limited"] >= 1, 30, "it was not let in")
    assert [ask_over(flow).pod for flow in taken.flows] == taken.pods, "others go on as before"
    assert of(items(lab, "services"), "dns")["active"] == MOST


def active(lab: Lab) -> float:
    """Connections of the Service web, by metrics: data processes tell what they have counted within a second."""
    try:
        return value(text_of(lab), "userproxy_connections_active", service="web")
    except KeyError:
        return 0.0


def test_a_hoarder_of_descriptors_is_one_for_the_successor_too(lab: Lab) -> None:
    """What one Service may have of them counts from the beginning on, so there are some for others."""
    most, least = 512, 100
    for pod in lab.pods:
        pod.serve_python(ECHO_AND_STAY)
    for name, address in (("web", WEB), ("few", FEW)):
        lab.manifests.service(name, cluster_ip=address[0])
        lab.manifests.slice(name, lab.pods)
    lab.node.sysctl("net.ipv4.tcp_max_syn_backlog", 4096)
    old = lab.node.start_userproxy(*QUICK, most_files=most)
    lab.settle()
    hoard = lab.client.popen([sys.executable, "-c", HOARD])
    try:
        eventually(
            lambda: any("Out of descriptors" in each["event"] for each in old.records), 60, "there is a shortage"
        )
        had = old.descriptors()
        new = lab.node.start_userproxy(*QUICK, "--takeover", most_files=most)
        assert new.wait_log("Taken over", 60)["connections"] > least
        with ExitStack() as stack:
            for _ in range(20):
                other = stack.enter_context(lab.client.connect(FEW, 5))
                other.sendall(b"x")
                assert other.recv(1) == b"x"
            eventually(lambda: active(lab) > least, 10, "its connections are counted")
        assert new.descriptors() < had + 100
    finally:
        hoard.kill()
        hoard.wait()
    eventually(lambda: value(text_of(lab), "userproxy_connections_active", service="web") == 0, 60, "it has gone")
