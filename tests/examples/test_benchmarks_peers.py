"""How each proxy is set up, and turns of real proxies: the load's own failures are told, never left out."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from examples.benchmarks.peers import Network, Peer, Way, peers, userproxy_command
from examples.benchmarks.scenarios import Scenario, take_turn
from examples.benchmarks.toolchain import build, find_go

BACKENDS = ("127.0.0.1", "127.0.0.2")

FORWARDER = """
import select, socket, sys
listen, backend, lose, answer = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].encode()
front = socket.socket(type=socket.SOCK_DGRAM)
front.bind(("127.0.0.1", listen))
flows = {}
count = 0
while True:
    for sock in select.select([front, *flows.values()], [], [])[0]:
        data, source = sock.recvfrom(100)
        if sock is not front:
            client = next(key for key, value in flows.items() if value is sock)
            front.sendto(data if data == b"are you there?" else answer or data, client)
            continue
        count += 1
        if source not in flows:
            flows[source] = socket.socket(type=socket.SOCK_DGRAM)
            flows[source].connect(("127.0.0.1", backend))
        if count != lose:
            flows[source].send(data)
"""

UDP = Scenario("udp", 3, count=200, warm_up=10, size=64, limit=10.0, network=Network.UDP)
TCP = Scenario("keepalive", 3, count=200, warm_up=10, limit=10.0)


def forwarder(*, lose: int = 0, answer: str = "") -> Peer:
    """A proxy for UDP that may lose one datagram, or answer something else."""

    def command(program: str, _directory: Path, way: Way) -> Sequence[str]:
        return (program, "-c", FORWARDER, str(way.listen), str(way.backend_port), str(lose), answer)

    return Peer("stub", "stub", ("python3", "--version"), "nowhere", command, (Network.UDP,), lambda: sys.executable)


@pytest.fixture(scope="module")
def load() -> Path:
    if find_go() is None:
        pytest.skip("needs the Go compiler: pip install '.[bench]'")
    return build("load")


@pytest.mark.parametrize("network", Network)
def test_userproxy_serves_the_network_of_the_load(network: Network, tmp_path: Path) -> None:
    command = userproxy_command("userproxy", tmp_path, Way(20000, BACKENDS, 20001, network))
    assert "20000-20000" in command
    service, endpoints = yaml.safe_load_all((tmp_path / "bench.yaml").read_text())
    assert [port["protocol"] for port in service["spec"]["ports"]] == [network.upper()]
    assert [port["protocol"] for port in endpoints["ports"]] == [network.upper()]
    assert [endpoint["addresses"] for endpoint in endpoints["endpoints"]] == [["127.0.0.1"], ["127.0.0.2"]]


def test_nginx_keeps_a_udp_session_over_many_datagrams(tmp_path: Path) -> None:
    peers()["nginx"].command("nginx", tmp_path, Way(20000, BACKENDS, 20001, Network.UDP))
    text = (tmp_path / "nginx.conf").read_text()
    assert "listen 127.0.0.1:20000 udp;" in text
    assert "proxy_responses" not in text


def test_haproxy_is_not_asked_for_udp() -> None:
    peer = peers()["haproxy"]
    assert peer.networks == (Network.TCP,)
    assert take_turn(peer, "/no/such/program", Path("/no/such/load"), [UDP]).values == {}
    assert take_turn(peer, "/no/such/program", Path("/no/such/load"), [UDP]).failures == ()


def test_two_haproxies_differ_in_their_threads(tmp_path: Path) -> None:
    for name, threads in (("haproxy", 1), ("haproxy-2", 2)):
        peers()[name].command("haproxy", tmp_path, Way(20000, ("127.0.0.1",), 80))
        assert f"  nbthread {threads}\n" in (tmp_path / "haproxy.cfg").read_text()


def test_a_program_that_is_not_there_is_none() -> None:
    def command(_program: str, _directory: Path, _way: Way) -> Sequence[str]:
        return ()

    assert Peer("x", "x", ("no-such-program", "-v"), "nowhere", command).program() is None


@pytest.mark.parametrize("name", ["nginx", "go"])
def test_a_turn_over_udp_and_tcp(load: Path, name: str) -> None:
    peer = peers()[name]
    program = peer.program()
    if program is None:
        pytest.skip(f"{name} is not installed ({peer.source})")
    outcome = take_turn(peer, program, load, [TCP, UDP])
    assert outcome.failures == ()
    assert outcome.values.keys() == {"keepalive_cpu_us", "udp_cpu_us"}
    assert outcome.values["udp_cpu_us"] > 0


def test_a_good_stub(load: Path) -> None:
    assert take_turn(forwarder(), sys.executable, load, [UDP]).failures == ()


def test_a_lost_datagram_is_a_failure(load: Path) -> None:
    outcome = take_turn(forwarder(lose=100), sys.executable, load, [UDP])
    assert outcome.values == {}
    assert len(outcome.failures) == 1
    assert "1 of 200 requests failed: no reply within 2s" in outcome.failures[0]


def test_another_answer_is_a_failure(load: Path) -> None:
    outcome = take_turn(forwarder(answer="another"), sys.executable, load, [UDP])
    assert outcome.values == {}
    assert "reply is another datagram than the request" in outcome.failures[0]
