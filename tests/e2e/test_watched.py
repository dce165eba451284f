"""Readers of a running userproxy beside many connections: one that stops is cut off, and costs traffic nothing."""

import signal
from contextlib import ExitStack

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.proxy import RunningProxy, installed_command
from userproxy.demo.programs import Program
from userproxy.demo.waiting import eventually

pytestmark = pytest.mark.e2e

WEB = "10.96.0.10"
FIRST, THEN = 16_000, 8_000
"""Connections until no reader has room left (8,192 events and what buffers hold), and those beyond."""

MEBIBYTE = 1 << 20

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


def reading(lab: Lab, stack: ExitStack) -> list[Program]:
    """A reader of each sort, both of which are told of what happens."""
    readers = [stack.enter_context(Program(lab.node, [installed_command(), *command])) for command in COMMANDS]

    def are_told() -> bool:
        served(lab, 4)
        return all(any("default/web" in line for line in list(reader.lines)) for reader in readers)

    eventually(are_told, 30, "the readers are told of connections")
    return readers


def test_a_reader_that_stops_is_cut_off_and_costs_bounded_memory(lab: Lab, proxy: RunningProxy) -> None:
    assert served(lab, 2_000) == 2_000, "what is kept for connections is there by now"
    with ExitStack() as stack:
        stopped, following = reading(lab, stack), reading(lab, stack)
        before = proxy.rss()
        for reader in stopped:
            reader.signal(signal.SIGSTOP)
        assert served(lab, FIRST) == FIRST
        full = proxy.rss()
        assert full - before < 24 * MEBIBYTE, "two readers, with 8,192 events each"
        assert served(lab, THEN) == THEN
        assert proxy.rss() - full < 3 * MEBIBYTE, "and no more for what came afterwards"
        for reader in stopped:
            reader.signal(signal.SIGCONT)
            reader.wait_line("Error: this reader was too slow, and is told no more: ask again, for less")
            assert reader.wait() == 1
        assert all(reader.running for reader in following), "who reads is not cut off"
        assert "web" in lab.node.userproxy("get", "services", "default/web").stdout, "others are answered"
