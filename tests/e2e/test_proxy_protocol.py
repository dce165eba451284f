"""PROXY headers to and from HAProxy and nginx, and from clients who do not keep to the protocol."""

import contextlib
import json
import re
import socket
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.lab.cluster import Cell, Lab
from tests.lab.drivers import DRIVERS
from tests.lab.manifests import Ingress
from tests.lab.peers import Told, haproxy_backend, haproxy_sender, in_both_families, nginx_backend, nginx_sender, told
from tests.lab.proxy import CONTROL, RunningProxy
from userproxy.addresses import host_and_port
from userproxy.demo.hosts import Address, Host
from userproxy.demo.programs import Program
from userproxy.demo.waiting import eventually
from userproxy.model import IPFamily

pytestmark = pytest.mark.e2e

FAMILIES = (IPFamily.IPV4, IPFamily.IPV6)
CLUSTER_IPS = ("10.96.0.10", "fd00:10:96::10")
OTHER_CLUSTER_IPS = ("10.96.0.11", "fd00:10:96::11")
LOAD_BALANCER_IP = "198.51.100.7"
NODE_PORT, OTHER_NODE_PORT = 30080, 30081
SENDS, ACCEPTS = "userproxy.io/proxy-protocol", "userproxy.io/accept-proxy-protocol"
ELSEWHERE: Address = ("203.0.113.77", 4711)
REQUEST = b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"

BACKENDS: Mapping[str, Callable[[Host, Path], Program]] = {"haproxy": haproxy_backend, "nginx": nginx_backend}


def line(client: Address = ELSEWHERE, portal: Address = ("198.51.100.1", 443)) -> bytes:
    """A header of version 1."""
    family = "TCP6" if ":" in client[0] else "TCP4"
    return f"PROXY {family} {client[0]} {portal[0]} {client[1]} {portal[1]}\r\n".encode()


def start_backend(lab: Lab, kind: str, directory: Path) -> None:
    """A backend in the first Pod that tells what the header says."""
    in_both_families(lab.enter(BACKENDS[kind](lab.pods[0], directory)), 8080)


def serve(lab: Lab, annotations: Mapping[str, str], *, hosts: int = 1, **settings: Any) -> None:
    """`default/web` in both families at all portals, whose endpoints are the first Pods."""
    lab.manifests.service("web", cluster_ip=CLUSTER_IPS, node_port=NODE_PORT, annotations=annotations, **settings)
    lab.manifests.slices("web", lab.pods[:hosts])


def start(lab: Lab, *flags: str) -> RunningProxy:
    proxy = lab.node.start_userproxy(*flags)
    lab.settle(*FAMILIES)
    return proxy


def trust(*hosts: Host) -> tuple[str, ...]:
    networks = [f"{host.address}/32" for host in hosts] + [f"{host.address6}/128" for host in hosts if host.address6]
    return ("--trusted-proxies", ",".join(networks))


def decisions(lab: Lab, *arguments: str) -> list[dict[str, Any]]:
    shown = lab.node.userproxy("observe", "default/web", "--last", "100", "-o", "json", *arguments).stdout
    return [json.loads(each) for each in shown.splitlines()]


def client_of(decision: dict[str, Any]) -> str:
    """The client's IP address."""
    address: str = decision["client"].rpartition(":")[0]
    return address.strip("[]")


def ending(lab: Lab, text: str) -> dict[str, Any]:
    """The decision whose reason has `text`, once there is one."""

    def found() -> list[dict[str, Any]]:
        return [each for each in decisions(lab) if text in each["reason"]]

    return eventually(found, 20, f"a decision with {text!r}")[0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_backends_are_told_the_client_and_the_portal(lab: Lab, tmp_path: Path, backend: str, version: str) -> None:
    start_backend(lab, backend, tmp_path / "backend")
    serve(lab, {SENDS: version})
    start(lab)
    for client, address in (
        (lab.client, (CLUSTER_IPS[0], 80)),
        (lab.client, (CLUSTER_IPS[1], 80)),
        (lab.node, (CLUSTER_IPS[0], 80)),
        (lab.outside, (lab.node.address, NODE_PORT)),
        (lab.outside, (lab.node.address6, NODE_PORT)),
    ):
        said, own = told(client, address)
        assert said == Told(own, address), (client.name, address)


@pytest.mark.parametrize(
    "cell", [Cell(DRIVERS["local"]), Cell(DRIVERS["nftables"]), Cell(pods="routed")], indirect=True, ids=str
)
def test_whatever_brings_the_packets(lab: Lab, tmp_path: Path) -> None:
    start_backend(lab, "haproxy", tmp_path / "backend")
    serve(lab, {SENDS: "v2", ACCEPTS: "v1"})
    start(lab, *trust(lab.outside))
    for ip in CLUSTER_IPS:
        said, own = told(lab.client, (ip, 80))
        assert said == Told(own, (ip, 80))
    for ip in (lab.node.address, lab.node.address6):
        said, _ = told(lab.outside, (ip, NODE_PORT), before=line())
        assert said == Told(ELSEWHERE, ("198.51.100.1", 443))


SENDERS: Mapping[str, tuple[str, Callable[[Host, Path, int, Address], Program]]] = {
    "haproxy send-proxy": ("v1", partial(haproxy_sender, options="send-proxy")),
    "haproxy send-proxy-v2": ("v2", partial(haproxy_sender, options="send-proxy-v2")),
    "haproxy with a checksum": (
        "v2",
        partial(haproxy_sender, options="send-proxy-v2 proxy-v2-options crc32c,unique-id,ssl"),
    ),
    "nginx": ("v1", nginx_sender),
}


@pytest.mark.parametrize("sender", SENDERS)
def test_clients_of_load_balancers_are_told_to_backends(lab: Lab, tmp_path: Path, sender: str) -> None:
    version, make = SENDERS[sender]
    start_backend(lab, "haproxy", tmp_path / "backend")
    serve(lab, {SENDS: "v2", ACCEPTS: version})
    start(lab, *trust(lab.outside))
    client = lab.add_outside("client-elsewhere")
    for port, target in ((8004, lab.node.address), (8006, lab.node.address6)):
        in_both_families(lab.enter(make(lab.outside, tmp_path / f"lb{port}", port, (target, NODE_PORT))), port)
        for ip in (lab.outside.address, lab.outside.address6):  # also a family that the node is not asked in
            said, own = told(client, (ip, port))
            assert said == Told(own, (ip, port)), (ip, target)
    shown = decisions(lab, "--verdict", "served")
    assert {client_of(each) for each in shown} == {client.address, client.address6}


def test_health_checks_of_haproxy(lab: Lab, tmp_path: Path) -> None:
    options = "send-proxy-v2 check-send-proxy check inter 200ms fall 1 rise 1"
    balancer = lab.enter(haproxy_sender(lab.outside, tmp_path, 8000, (lab.node.address, NODE_PORT), options))
    balancer.wait_line("Server lb8000/target is DOWN")
    lab.serve_http()
    serve(lab, {ACCEPTS: "v2"}, hosts=3)
    start(lab, *trust(lab.outside))
    balancer.wait_line("Server lb8000/target is UP")
    checks = eventually(lambda: decisions(lab), 20, "a health check")
    # They are LOCAL: the connection's own address counts.
    assert {client_of(each) for each in checks} == {lab.outside.address}
    assert "refused" not in {each["verdict"] for each in checks}
    answer = answer_to(lab.add_outside("client-elsewhere"), (lab.outside.address, 8000), b"")
    assert "web-" in answer


def test_a_header_of_somebody_who_is_not_trusted_is_payload(lab: Lab, tmp_path: Path) -> None:
    start_backend(lab, "haproxy", tmp_path / "backend")
    serve(lab, {SENDS: "v1", ACCEPTS: "v1"})
    start(lab, *trust(lab.outside))
    stranger = lab.add_outside("stranger")
    said, own = told(stranger, (lab.node.address, NODE_PORT))
    assert said == Told(own, (lab.node.address, NODE_PORT))
    with closing(stranger.connect((lab.node.address, NODE_PORT))) as sock:
        sock.sendall(line() + REQUEST)
        assert sock.recv(65536).startswith(b"HTTP/1.1 400 ")  # so HAProxy takes it for the request
    assert {client_of(each) for each in decisions(lab)} == {stranger.address}


def test_without_trusted_proxies_the_owner_is_told(lab: Lab, tmp_path: Path) -> None:
    start_backend(lab, "haproxy", tmp_path / "backend")
    serve(lab, {SENDS: "v1", ACCEPTS: "v1"})
    proxy = start(lab)
    proxy.wait_log("no header is read, since nobody's is believed")
    said, own = told(lab.outside, (lab.node.address, NODE_PORT))
    assert said == Told(own, (lab.node.address, NODE_PORT))


BAD = {
    "nonsense": (b"GET / HTTP/1.0\r\n\r\n", "does not begin with a PROXY line"),
    "version 2": (bytes.fromhex("0d0a0d0a000d0a515549540a") + b"\x20\0\0\0", "does not begin with a PROXY line"),
    "port": (b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 80\r\n", "'65536' is no port number"),
    "address": (b"PROXY TCP4 192.0.2.01 192.0.2.2 1 80\r\n", "'192.0.2.01' is no IPv4 address"),
    "endless": (b"PROXY " + b"x" * 200, "no end within 107 bytes"),
}


def test_bad_slow_and_partial_headers_cost_only_their_clients(lab: Lab) -> None:
    lab.serve_http()
    serve(lab, {ACCEPTS: "v1"}, hosts=3)
    proxy = start(lab, *trust(lab.outside))
    address = (lab.node.address, NODE_PORT)
    before = proxy.descriptors_at_rest()
    with ExitStack() as stack:
        silent = [stack.enter_context(closing(lab.outside.connect(address))) for _ in range(50)]
        partial = stack.enter_context(closing(lab.outside.connect(address)))
        partial.sendall(line()[:20])
        begun = time.monotonic()
        for data, reason in BAD.values():
            assert is_reset(lab.outside, address, data), reason
            assert ending(lab, reason)["verdict"] == "refused"
        with closing(lab.outside.connect(address)):
            pass
        ending(lab, "closed by the client, which has sent no PROXY header")
        pieces = stack.enter_context(closing(lab.outside.connect(address)))
        pieces.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in line() + REQUEST:
            pieces.sendall(bytes([byte]))
        assert pieces.recv(65536).startswith(b"HTTP/1.")
        for sock in (*silent, partial):
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        assert time.monotonic() - begun > 2.0  # they had time to speak
    assert ending(lab, "no whole PROXY header has come within 3 s")["verdict"] == "timed-out"
    eventually(lambda: proxy.descriptors() <= before + 2, 20, "the descriptors of refused clients are closed")
    refusals = [record for record in proxy.records if "want of a good PROXY header" in str(record)]
    assert 1 <= len(refusals) <= max(1, int(CONTROL)), "each process says it once"


def is_reset(host: Host, address: Address, data: bytes) -> bool:
    """Whether a client is reset that says `data`."""
    with closing(host.connect(address)) as sock:
        sock.sendall(data)
        try:
            return sock.recv(1) is None
        except ConnectionResetError:
            return True


def test_clients_stick_by_the_address_in_the_header_whichever_proxy_they_come_by(lab: Lab) -> None:
    lab.serve_http()
    serve(lab, {ACCEPTS: "v1"}, hosts=3, affinity=3600)
    other = lab.add_outside("another load balancer")
    start(lab, *trust(lab.outside, other))
    pods: dict[str, set[str]] = {}
    for port in (1, 2):
        for proxy in (lab.outside, other):
            for last in range(1, 7):
                ip = f"203.0.113.{last}"
                answer = answer_to(proxy, (lab.node.address, NODE_PORT), line((ip, port)))
                pods.setdefault(ip, set()).update(re.findall(r"web-\d", answer))
    assert [len(each) for each in pods.values()] == [1] * 6
    assert set.union(*pods.values()) == {"web-1", "web-2", "web-3"}


def answer_to(host: Host, address: Address, before: bytes) -> str:
    """What a request behind `before` is answered, as text; empty if the connection is reset."""
    with closing(host.connect(address)) as sock, contextlib.suppress(ConnectionResetError):
        sock.sendall(before + REQUEST)
        return b"".join(iter(lambda: sock.recv(65536), b"")).decode()
    return ""


@pytest.mark.parametrize("mode", ["VIP", "Proxy"])
def test_source_ranges_are_enforced_for_the_client_in_the_header(lab: Lab, mode: str) -> None:
    lab.serve_http()
    serve(
        lab,
        {ACCEPTS: "v1"},
        hosts=3,
        load_balancer_ips=[Ingress(LOAD_BALANCER_IP, mode)],
        source_ranges=["203.0.113.0/24", f"{lab.outside.address}/32"],
    )
    start(lab, *trust(lab.outside))
    node_port, load_balancer = (lab.node.address, NODE_PORT), (LOAD_BALANCER_IP, 80)
    inside, beyond = ("203.0.113.9", 1), ("198.51.100.99", 1)
    ways = [(node_port, inside, load_balancer, True), (node_port, beyond, load_balancer, False)]
    ways.append((node_port, beyond, ("198.51.100.200", 80), True))  # node ports have no source ranges
    if mode == "VIP":
        ways += [(load_balancer, inside, load_balancer, True), (load_balancer, beyond, ("198.51.100.200", 80), False)]
    for dialled, client, portal, is_let_in in ways:
        answer = answer_to(lab.outside, dialled, line(client, portal))
        assert bool(answer) is is_let_in, (dialled, client, portal)
    refused = ending(lab, "is in no loadBalancerSourceRanges")
    assert (client_of(refused), refused["verdict"]) == (beyond[0], "refused")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_endpoints_of_this_node_see_the_client_of_the_header(lab: Lab, workers: str) -> None:
    lab.serve_http()
    serve(lab, {ACCEPTS: "v1", "userproxy.io/client-address": "auto"}, hosts=3)
    start(lab, *trust(lab.outside), "--workers", workers)
    client = lab.add_outside("client-elsewhere")
    for dialled, ip in ((lab.node.address, client.address), (lab.node.address6, client.address6)):
        # What comes before it is known how answers return has the node's address.
        def sees(dialled: str = dialled, ip: str = ip) -> bool:
            answer = answer_to(lab.outside, (dialled, NODE_PORT), line((ip, 4711), (dialled, NODE_PORT)))
            return f'"{host_and_port(ip, 0)[:-1]}' in answer

        eventually(sees, 20, f"an endpoint that sees {ip}")
    other_family = line((client.address6, 4711), (lab.node.address6, 80))
    assert "web-" in answer_to(lab.outside, (lab.node.address, NODE_PORT), other_family)
    from_pod = answer_to(lab.client, (CLUSTER_IPS[0], 80), b"")
    assert f'"{lab.client.address}:' in from_pod


def test_annotations_are_followed_while_connections_go_on(lab: Lab, tmp_path: Path) -> None:
    start_backend(lab, "nginx", tmp_path / "backend")
    serve(lab, {SENDS: "v1"})
    start(lab, *trust(lab.outside))
    address = (lab.node.address, NODE_PORT)
    assert told(lab.outside, address)[0].portal == address
    serve(lab, {SENDS: "v2", ACCEPTS: "v2"})
    lab.settle(*FAMILIES)
    header = bytes.fromhex("0d0a0d0a000d0a515549540a2111000c") + struct.pack(
        "!4s4sHH", socket.inet_aton(ELSEWHERE[0]), socket.inet_aton("198.51.100.1"), ELSEWHERE[1], 443
    )
    assert told(lab.outside, address, before=header)[0] == Told(ELSEWHERE, ("198.51.100.1", 443))
    assert is_reset(lab.outside, address, line())
    described = lab.node.userproxy("describe", "service", "default/web").stdout
    assert re.search(r"PROXY.*v2", described)
