"""Readers of a running userproxy beside many connections: one that stops is cut off, and costs traffic nothing."""

import json
import re
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.manifests import Port
from tests.lab.proxy import RunningProxy, installed_command
from userproxy.addresses import host_and_port
from userproxy.admin.client import AdminClient
from userproxy.admin.paths import ROOTS_SOCKET
from userproxy.demo.programs import Program
from userproxy.demo.traffic import fetch
from userproxy.demo.waiting import eventually

pytestmark = pytest.mark.e2e

WEB = "10.96.0.10"
FIRST, THEN = 16_000, 8_000
"""Connections until no reader has room left (8,192 events and what buffers hold), and those beyond."""

MEBIBYTE = 1 << 20

CUT_OFF = re.compile(
    r"Error: (this reader was too slow, and is told no more|the watch is over: .* left unread for too long)"
)
"""The second one where the first has waited for half a minute to be read, as it may on a slow machine."""

SERVER = """
import socket
with socket.create_server(("", 8080), backlog=4096) as server:
    while True:
        client, _ = server.accept()
        with client:
            client.sendall(client.recv(100))
"""

CLIENT = """
import concurrent.futures, socket, sys
host, count, ways = sys.argv[1], int(sys.argv[2]), 4

def served(_):
    good = 0
    for _ in range(count // ways):
        try:
            with socket.create_connection((host, 80), 15) as sock:
                sock.sendall(b"?" * 100)
                good += sock.recv(1000) == b"?" * 100 and sock.recv(1000) == b""
        except OSError as error:
            print(error, file=sys.stderr)
    return good

with concurrent.futures.ThreadPoolExecutor(ways) as pool:
    print(sum(pool.map(served, range(ways))))
"""

FLOWS = """
import socket, sys
for port in range(20_000, 30_000):
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(15)
        sock.bind(("", port))
        sock.connect((sys.argv[1], 53 + port % 2))
        sock.send(b"?")
        sock.recv(1000)
"""
"""A datagram that is answered from each of 10,000 ports, to two portals."""

COMMANDS = (("observe", "-f"), ("get", "connections", "-w"))


@pytest.fixture
def proxy(lab: Lab) -> RunningProxy:
    for pod in lab.pods:
        pod.serve_python(SERVER)
    lab.manifests.service("web", cluster_ip=WEB)
    lab.manifests.slice("web", lab.pods)
    running = lab.node.start_userproxy(*QUICK)
    lab.settle()
    return running


def served(lab: Lab, count: int) -> int:
    """How many of so many connections were served in full."""
    done = lab.client.run(["python3", "-c", CLIENT, WEB, str(count)], timeout=600.0)
    assert done.stderr == ""
    return int(done.stdout)


def memory(proxy: RunningProxy) -> int:
    """Resident memory in bytes, of the process and of its data processes."""
    children = Path(f"/proc/{proxy.pid}/task/{proxy.pid}/children").read_text().split()
    found = 0
    for pid in (str(proxy.pid), *children):
        (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
        found += int(line.split()[1]) * 1024
    return found


def reading(lab: Lab, stack: ExitStack) -> list[Program]:
    """A reader of each sort, both of which are told of what happens."""
    readers = [stack.enter_context(Program(lab.node, [installed_command(), *command])) for command in COMMANDS]

    def are_told() -> bool:
        served(lab, 4)
        return all(any("default/web" in line for line in list(reader.lines)) for reader in readers)

    eventually(are_told, 30, "the readers are told of connections")
    return readers


def test_a_reader_that_stops_is_cut_off_and_costs_bounded_memory(lab: Lab, proxy: RunningProxy) -> None:
    proxy.wait_at_rest()  # else the process in reserve comes meanwhile, and its memory is taken for the readers'
    assert served(lab, 2_000) == 2_000, "what is kept for connections is there by now"
    with ExitStack() as stack:
        stopped, following = reading(lab, stack), reading(lab, stack)
        before = memory(proxy)
        for reader in stopped:
            reader.signal(signal.SIGSTOP)
        assert served(lab, FIRST) == FIRST
        full = memory(proxy)
        assert full - before < 24 * MEBIBYTE, "two readers, with 8,192 events each"
        assert served(lab, THEN) == THEN
        assert memory(proxy) - full < 3 * MEBIBYTE, "and no more for what came afterwards"
        for reader in stopped:
            reader.signal(signal.SIGCONT)
            assert reader.wait(60) == 1
            assert CUT_OFF.match(reader.lines[-1]), reader.lines[-1]
        assert all(reader.running for reader in following), "who reads is not cut off"
        assert "web" in lab.node.userproxy("get", "services", "default/web").stdout, "others are answered"


def test_a_list_of_ten_thousand_is_written_as_it_is_read_and_others_are_served_between_its_pieces(lab: Lab) -> None:
    lab.serve_http()
    lab.manifests.service("web", cluster_ip=WEB)
    lab.manifests.slice("web", lab.pods)
    dns = [Port(53, "even", "UDP"), Port(54, "odd", "UDP")]
    lab.manifests.service("dns", ports=dns, cluster_ip="10.96.0.53")
    lab.manifests.slice("dns", lab.pods, ports=dns)
    running = lab.node.start_userproxy(*QUICK, "--udp-timeout", "10m")
    lab.settle()
    lab.client.run(["python3", "-c", FLOWS, "10.96.0.53"], timeout=120.0)
    api = AdminClient(lab.node.path(str(ROOTS_SOCKET)))
    pieces: list[bytes] = []
    with ExitStack() as stack:
        for piece in api.pieces("connections"):
            if not pieces:
                late = stack.enter_context(lab.client.connect((WEB, 80)))
            pieces.append(piece)
            assert fetch(lab.client, (WEB, 80)).pod, "traffic goes on"
            if len(pieces) % 20 == 1:
                assert api.get("version")["pid"] == running.pid, "others are answered"
        listed = json.loads(b"".join(pieces))
        assert sum(each["protocol"] == "UDP" for each in listed["items"]) == 10_000
        assert listed["next"] is None
        assert len(pieces) > 30
        clients = {each["client"] for each in listed["items"]}
        assert host_and_port(*late.getsockname()) in clients, "the end was made when the beginning had been read"
