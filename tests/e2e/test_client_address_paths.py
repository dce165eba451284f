"""Clients' addresses where answers to them do not come back: nobody is refused, and one client at most is slow."""

import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.lab.cluster import QUICK, Cell, Lab
from tests.lab.datagrams import ask_over
from tests.lab.drivers import DRIVERS
from tests.lab.manifests import Port
from tests.lab.probes import KeptConnection
from tests.lab.proxy import CONTROL, RunningProxy
from userproxy.demo.hosts import Address, Host
from userproxy.demo.traffic import fetch, http
from userproxy.demo.waiting import eventually
from userproxy.model import OTHERS_PORTS, IPFamily

pytestmark = pytest.mark.e2e

WEB = ("10.96.0.10", 80)
WEB6 = ("fd00:10:96::10", 80)
METRICS = ("127.0.0.1", 10249)
PORTS = [Port(80, "http", node_port=30080), Port(80, "dns", "UDP", node_port=30080)]
CLIENTS = 24
LOST = "Answers to clients' addresses do not come back"
NO_WAY_BACK = "Backends see the node's address instead of the client's: no answer"
NOT_OVER_BRIDGES = "Between Pods of one bridge backends see the node's address"

AT_ONCE = max(1, int(CONTROL))
"""Who find out, where the first clients of several data processes come at the same time: one of each of these."""

ROUTED = Cell(DRIVERS["nftables"], "routed")
BRIDGED = Cell(DRIVERS["nftables"], "bridged")


def serve(lab: Lab, *flags: str, lacking: str = "") -> RunningProxy:
    lab.serve_http()
    lab.manifests.node(lab.node)
    lab.manifests.service("web", ports=PORTS, cluster_ip=[WEB[0], WEB6[0]], external_policy="Local")
    lab.manifests.slices("web", lab.pods, ports=PORTS)
    folder = Path(__file__).parents[1] / "lab" / "netfilter_lacking"
    env = {"PYTHONPATH": os.fspath(folder), "NETFILTER_LACKS": lacking} if lacking else None
    proxy = lab.node.start_userproxy(*QUICK, *flags, env=env)
    lab.settle(*IPFamily)
    return proxy


def patient(host: Host, address: Address) -> str:
    """Whom the backend sees of a UDP client that asks again every half second until it is answered."""
    with host.udp_socket(address, 0.5) as sock:
        for _ in range(10):
            try:
                return ask_over(sock).client_ip
            except TimeoutError:
                continue
    raise TimeoutError(f"{address}: no answer")


ASK: dict[str, Callable[[Host, Address], str]] = {"TCP": lambda host, at: fetch(host, at).client_ip, "UDP": patient}


def seen(host: Host, address: Address, protocol: str, count: int = CLIENTS) -> list[str]:
    """Whom the backends see of so many clients, some of them at a time. Raises OSError if one is not served."""
    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(lambda _: ASK[protocol](host, address), range(count)))


def fallbacks(lab: Lab) -> dict[str, int]:
    """Connections and flows from the node's address although the client's was to be kept, by reason."""
    text = http(lab.node, METRICS, "/metrics").decode()
    found = re.findall(r'^userproxy_client_address_fallbacks_total\{reason="([^"]+)"\} ([0-9.]+)', text, re.MULTILINE)
    return {reason: int(float(number)) for reason, number in found if float(number)}


def told(proxy: RunningProxy, event: str) -> int:
    return sum(str(record["event"]).startswith(event) for record in proxy.records)


def wipe_marks(lab: Lab) -> None:
    """As a rule of another program does that sets all bits of the mark, after ours."""
    rules = "table inet others { chain prerouting { type filter hook prerouting priority -80; meta mark set 0; }; }"
    lab.node.run(["nft", "-f", "-"], text=rules)


def answer_past_the_node(lab: Lab, pods: list[Host] | None = None) -> None:
    """Give Pods a link of their own to the client: their answers take it."""
    for number, pod in enumerate(lab.pods if pods is None else pods):
        lab.client.ip_batch(
            [
                f"link add side{number} type veth peer name side netns {pod.pid}",
                f"link set side{number} up",
            ]
        )
        pod.ip_batch(["link set side up", f"route add {lab.client.address}/32 dev side"])
        pod.run(["ip", "-6", "route", "add", lab.client.address6, "dev", "side"])


@pytest.mark.sampled(4)
@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
@pytest.mark.parametrize(
    ("cell", "damage"),
    [(cell, damage) for cell in (ROUTED, BRIDGED) for damage in (wipe_marks, answer_past_the_node)],
    ids=lambda given: given.__name__ if callable(given) else str(given),
    indirect=["cell"],
)
def test_where_answers_are_lost_one_client_finds_out_and_all_are_served(
    lab: Lab, damage: Callable[[Lab], None], protocol: str
) -> None:
    damage(lab)
    proxy = serve(lab)
    for number, address in enumerate((WEB, WEB6), 1):
        family = IPFamily.IPV6 if ":" in address[0] else IPFamily.IPV4
        assert set(seen(lab.client, address, protocol)) == {lab.seen_by_pods(family)}
        found = fallbacks(lab)
        assert number <= found["no-answer"] <= number * AT_ONCE, "one for each family"
        assert found.keys() <= {"no-answer", "remembered", "not-yet-known"}
        assert set(seen(lab.client, address, protocol)) == {lab.seen_by_pods(family)}
        assert fallbacks(lab)["no-answer"] == found["no-answer"], "and nobody after them"
    eventually(lambda: 2 <= told(proxy, LOST) <= 2 * AT_ONCE, 10, "a line for each family")
    assert [record for record in proxy.records if record["event"].startswith(NO_WAY_BACK)] == []


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
@pytest.mark.parametrize(
    ("cell", "lacking", "line"),
    [
        pytest.param(ROUTED, "nft_socket,xt_socket", NO_WAY_BACK, id="no module socket"),
        pytest.param(BRIDGED, "bridge", NOT_OVER_BRIDGES, id="no tables of bridges"),
    ],
    indirect=["cell"],
)
def test_where_the_kernel_lacks_what_it_takes_nobody_has_to_find_out(
    lab: Lab, lacking: str, line: str, protocol: str
) -> None:
    proxy = serve(lab, lacking=lacking)
    for address, family in ((WEB, IPFamily.IPV4), (WEB6, IPFamily.IPV6)):
        assert set(seen(lab.client, address, protocol)) == {lab.seen_by_pods(family)}
    assert fallbacks(lab) == {}
    assert (told(proxy, line), told(proxy, LOST)) == (2, 0)


@pytest.mark.parametrize("lab", ["api"], indirect=True)
def test_an_event_of_the_node_says_so_once(lab: Lab) -> None:
    wipe_marks(lab)
    lab.serve_http()
    lab.manifests.service("web", ports=PORTS, cluster_ip=[WEB[0], WEB6[0]])
    lab.manifests.slices("web", lab.pods, ports=PORTS)
    lab.node.start_userproxy(*QUICK)
    lab.node.wait_for_portal(*WEB, "tcp")
    assert seen(lab.client, WEB, "TCP", 4)

    def events() -> list[dict[str, Any]]:
        found = [body for (kind, _, _), body in lab.api.objects.items() if kind == "Event"]
        return [event for event in found if event["reason"] == "ClientAddressNotKept"]

    eventually(events, 30, "the Event")
    assert seen(lab.client, WEB, "TCP", 4)
    (event,) = events()
    assert (event["regarding"]["kind"], event["regarding"]["name"]) == ("Node", lab.node.name)
    assert "cni0 (TCP over IPv4)" in event["note"]


@pytest.mark.parametrize("cell", [ROUTED, BRIDGED], ids=str, indirect=True)
def test_a_strict_look_at_the_way_back_is_no_obstacle(lab: Lab) -> None:
    """rp_filter, also one that goes by marks."""
    for name in lab.node.inside(os.listdir, "/proc/sys/net/ipv4/conf"):
        lab.node.sysctl(f"net.ipv4.conf.{name}.rp_filter", 1)
        lab.node.sysctl(f"net.ipv4.conf.{name}.src_valid_mark", 1)
    lab.node.sysctl("net.ipv4.conf.default.rp_filter", 1)
    serve(lab)
    for protocol in ("TCP", "UDP"):
        assert set(seen(lab.client, WEB, protocol)) == {lab.client.address}
        assert set(seen(lab.outside, (lab.node.address, 30080), protocol)) == {lab.outside.address}
    assert fallbacks(lab).keys() <= {"not-yet-known"}


def admit(pod: Host, *addresses: str, verdict: str) -> None:
    """Let nobody reach a Pod's servers but these, as the rules of a NetworkPolicy do."""
    rules = [f"ip{'6' * (':' in each)} saddr {each} accept" for each in addresses]
    body = "; ".join(["type filter hook input priority 0", *rules, f"th dport 8080 {verdict}"])
    pod.run(["nft", "-f", "-"], text=f"table inet selected {{ chain ingress {{ {body}; }}; }}")


def is_let_in(host: Host, address: Address, protocol: str) -> bool:
    try:
        return bool(ASK[protocol](host, address))
    except OSError:
        return False


@pytest.mark.sampled(3)
@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
@pytest.mark.parametrize("verdict", ["drop", "reject"])
@pytest.mark.parametrize("cell", [ROUTED, BRIDGED], ids=str, indirect=True)
def test_a_policy_that_selects_pods_admits_and_refuses_the_right_ones(lab: Lab, verdict: str, protocol: str) -> None:
    """The node itself is let in, as CNI plug-ins have it for kubelet's probes: its address must be no way around."""
    stranger = lab.add_pod("stranger")
    server, *others = lab.pods
    proxy = serve(lab)
    lab.manifests.service("others", ports=PORTS, cluster_ip=["10.96.0.11", "fd00:10:96::11"])
    lab.manifests.slices("others", others, ports=PORTS)
    lab.manifests.slices("web", [server], ports=PORTS)
    lab.settle(*IPFamily)
    nodes = [lab.seen_by_pods(family) for family in IPFamily]
    admit(server, lab.client.address, lab.client.address6, *nodes, verdict=verdict)
    for family, address in ((IPFamily.IPV4, WEB), (IPFamily.IPV6, WEB6)):
        six = family is IPFamily.IPV6
        other = ("fd00:10:96::11", 80) if six else ("10.96.0.11", 80)
        for host in (stranger, lab.client):
            assert seen(host, other, protocol, 1) == [host.address6 if six else host.address]
        assert not is_let_in(stranger, address, protocol)
        assert set(seen(lab.client, address, protocol, 4)) == {lab.client.address6 if six else lab.client.address}
        if not six:
            assert not is_let_in(stranger, address, protocol), "nor once the right one has been"
    assert "no-answer" not in fallbacks(lab)
    assert told(proxy, LOST) == 0


ECHO_SERVER = """
import asyncio

async def serve(reader, writer):
    said = await reader.readline()
    writer.write(writer.get_extra_info("peername")[0].encode() + b" " + said)
    writer.close()

async def main():
    async with await asyncio.start_server(serve, "0.0.0.0", 8080, backlog=4096) as server:
        await server.serve_forever()

asyncio.run(main())
"""
"""Answers the address that it sees, and what the client has said."""

MANY_CLIENTS = """
import asyncio, sys

async def ask(number, source):
    reader, writer = await asyncio.open_connection("10.96.0.10", 80, local_addr=(source, 0))
    writer.write(b"%d\\n" % number)
    answer = (await reader.readline()).decode().split()
    writer.close()
    await writer.wait_closed()
    assert answer == [source, str(number)], (answer, source, number)

async def main(count, sources):
    turns = asyncio.Semaphore(64)

    async def in_turn(number):
        async with turns:
            await ask(number, sources[number % len(sources)])

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(in_turn(number))
    print("done")

asyncio.run(main(int(sys.argv[1]), sys.argv[2:]))
"""


@pytest.mark.parametrize("cell", [ROUTED, BRIDGED], ids=str, indirect=True)
def test_of_ten_thousand_connections_from_fifty_addresses_none_are_mixed_up(lab: Lab) -> None:
    sources = [f"10.244.1.{number}" for number in range(100, 150)]
    link = f"cali{lab.client.address.replace('.', '')[-9:]}"
    lab.client.ip_batch([f"addr add {each}/32 dev eth0" for each in sources])
    if lab.cell.pods == "routed":
        lab.node.ip_batch([f"route add {each}/32 dev {link}" for each in sources])
    for pod in lab.pods:
        pod.serve_python(ECHO_SERVER)
    lab.manifests.node(lab.node)
    lab.manifests.service("web", cluster_ip=WEB[0])
    lab.manifests.slice("web", lab.pods)
    lab.node.start_userproxy(*QUICK)
    lab.settle()
    done = lab.client.run([sys.executable, "-c", MANY_CLIENTS, "10000", *sources], timeout=120)
    assert done.stdout == "done\n"
    assert fallbacks(lab).keys() <= {"not-yet-known"}


def hold(node: Host, first: int, last: int) -> None:
    """Let nobody else have these ports of a host."""
    program = [
        "import resource, signal, socket",
        "most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))",
        f"held = [socket.create_server(('', port), backlog=0) for port in range({first}, {last + 1})]",
        "signal.pause()",
    ]
    node.popen([sys.executable, "-c", "\n".join(program)])
    eventually(lambda: node.listening_ports() >= set(range(first, last + 1)))


@pytest.mark.parametrize("cell", [ROUTED], ids=str, indirect=True)
def test_where_a_clients_ports_run_out_the_node_asks_for_it(lab: Lab) -> None:
    lab.node.sysctl("net.ipv4.ip_local_port_range", "50000 50029")
    hold(lab.node, *OTHERS_PORTS)
    serve(lab)
    lab.manifests.slices("web", lab.pods[:1], ports=PORTS)
    lab.settle()
    address = (lab.node.address, 30080)
    with ExitStack() as stack:
        kept = [stack.enter_context(KeptConnection(lab.outside, address)) for _ in range(45)]
        asked = Counter(each.ask().client_ip for each in kept)
        assert asked.keys() == {lab.outside.address, lab.node.address}
        assert fallbacks(lab) == {"no-port": asked[lab.node.address]}
        assert asked[lab.node.address] >= 15, "listeners have some of the thirty ports, too"
    # Those that are over leave their ports in TIME_WAIT.
    assert len(seen(lab.outside, address, "TCP", 100)) == 100


@pytest.mark.parametrize("cell", [ROUTED, BRIDGED], ids=str, indirect=True)
def test_after_a_kill_clients_have_their_addresses_again_at_once(lab: Lab) -> None:
    old = serve(lab)
    with ExitStack() as stack:
        kept = [stack.enter_context(KeptConnection(lab.client, WEB)) for _ in range(20)]
        flows = [stack.enter_context(lab.client.udp_socket(WEB)) for _ in range(5)]
        assert {each.ask().client_ip for each in kept} == {lab.client.address}
        assert {ask_over(each).client_ip for each in flows} == {lab.client.address}
        old.kill()
        lab.node.start_userproxy(*QUICK)
        lab.settle(*IPFamily)
        for protocol in ("TCP", "UDP"):
            assert set(seen(lab.client, WEB, protocol, 60)) == {lab.client.address}
        assert {ask_over(each).client_ip for each in flows} == {lab.client.address}
    assert fallbacks(lab).keys() <= {"not-yet-known"}


UPLOAD_SERVER = """
import socket

server = socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    client, peer = server.accept()
    left = 1_000_000
    while left and (data := client.recv(left)):
        left -= len(data)
    client.sendall(peer[0].removeprefix("::ffff:").encode())
    client.close()
"""
"""Answers the address that it sees once it has had a megabyte."""


@pytest.mark.sampled(1)
@pytest.mark.parametrize("cell", [ROUTED, BRIDGED], ids=str, indirect=True)
def test_that_packets_are_too_big_for_a_link_farther_on_is_heard_of(lab: Lab) -> None:
    """The ICMP messages are addressed to the client, whose packets they are about."""
    second = lab.add_second_node(pods=1)
    far = lab.pods[-1]
    far.serve_python(UPLOAD_SERVER)
    link = "cni0" if lab.cell.pods == "bridged" else f"cali{far.address.replace('.', '')[-9:]}"
    for option, narrow in (("-4", f"{far.address}/32"), ("-6", f"{far.address6}/128")):
        second.run(["ip", option, "route", "replace", narrow, "dev", link, "mtu", "1300"])
    lab.manifests.service("web", ports=PORTS, cluster_ip=[WEB[0], WEB6[0]])
    lab.manifests.slices("web", [far], ports=PORTS)
    lab.node.start_userproxy(*QUICK)
    lab.settle(*IPFamily)
    for address, client in ((WEB, lab.client.address), (WEB6, lab.client.address6)):
        with lab.client.connect(address) as sock:
            sock.sendall(bytes(1_000_000))
            assert sock.recv(100).decode() == client


@pytest.mark.parametrize("cell", [ROUTED, BRIDGED], ids=str, indirect=True)
def test_a_pod_that_gets_the_address_of_one_that_is_gone_is_served_at_once(lab: Lab) -> None:
    serve(lab)
    first = lab.add_pod("first")
    address = first.address
    kept = [KeptConnection(first, WEB) for _ in range(20)]
    flow = first.udp_socket(WEB, source=(address, 40_000))
    try:
        assert {each.ask().client_ip for each in kept} == {ask_over(flow).client_ip} == {address}
        if lab.cell.pods == "routed":
            lab.node.ip_batch([f"route del {address}"])
        first.ip_batch(["link del eth0"])
        heir = lab.add_pod("heir")
        if lab.cell.pods == "routed":
            heir.ip_batch([f"addr add {address}/32 dev eth0", f"addr del {heir.address}/32 dev eth0"])
            lab.node.ip_batch([f"route add {address} dev cali{heir.address.replace('.', '')[-9:]}"])
        else:
            heir.ip_batch([f"addr del {heir.address}/24 dev eth0", f"addr add {address}/24 dev eth0"])
            heir.ip_batch(["route replace default via 10.244.1.1"])
        for protocol in ("TCP", "UDP"):
            assert set(seen(heir, WEB, protocol, 60)) == {address}
        with heir.udp_socket(WEB, source=(address, 40_000)) as same_port:
            assert ask_over(same_port).client_ip == address
    finally:
        flow.close()
        for each in kept:
            each.close()
