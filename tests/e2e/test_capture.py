"""``userproxy capture`` of a running proxy: what tshark makes of real connections."""

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.admin.pcapng.reader import read
from tests.forwarding.observation.recorded import complaints, followed
from tests.lab.cluster import QUICK, Lab
from tests.lab.manifests import Port
from tests.lab.proxy import CONTROL, installed_command
from userproxy.admin.paths import ROOTS_SOCKET
from userproxy.demo.waiting import eventually

pytestmark = pytest.mark.e2e

CLUSTER_IP = ("10.96.0.10", 80)


def serve(lab: Lab, *flags: str) -> socket.socket:
    """A Service with two endpoints: nobody listens at the first, and this test does at the second."""
    server = lab.pods[1].listen(8080)
    server.settimeout(30)
    lab.manifests.service("web", cluster_ip=CLUSTER_IP[0], ports=[Port(80, "http")])
    lab.manifests.slice("web", lab.pods[:2], ports=[Port(80, "http")])
    lab.node.start_userproxy(*QUICK, *flags)
    lab.node.wait_for_portal(*CLUSTER_IP)
    return server


def command(lab: Lab, *arguments: str) -> list[str]:
    path = lab.node.path(str(ROOTS_SOCKET))
    eventually(path.exists, 10, "there is an admin socket")
    return [installed_command(), "capture", "default/web", *arguments, "--admin-socket", str(path)]


@contextmanager
def capturing(lab: Lab, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(command(lab, *arguments), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "Capturing to" in process.stderr.readline()
        yield process


def all_of(sock: socket.socket) -> bytes:
    """Everything up to the FIN."""
    found = bytearray()
    while data := sock.recv(1 << 20):
        found += data
    return bytes(found)


def say(sock: socket.socket, text: bytes) -> None:
    sock.sendall(text)
    sock.shutdown(socket.SHUT_WR)


def converse(lab: Lab, server: socket.socket, asked: bytes, answered: bytes) -> tuple[str, int]:
    """A client asks and half-closes, and only then is answered. Returns its address."""
    with lab.client.connect(CLUSTER_IP, timeout=30) as client:
        backend, _ = server.accept()
        sender = threading.Thread(target=say, args=(client, asked))
        sender.start()
        with backend:
            backend.settimeout(30)
            assert all_of(backend) == asked
            sender.join()
            answerer = threading.Thread(target=say, args=(backend, answered))
            answerer.start()
            assert all_of(client) == answered
            answerer.join()
        address: tuple[str, int] = client.getsockname()
        return address


def test_a_bulk_a_half_closed_and_a_retried_connection_open_in_tshark(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "web.pcapng"
    talks = [(os.urandom(10_000_000), b"thanks"), (b"question", os.urandom(300_000)), (b"", b"hello")]
    # One process has two of them, and so one whose turn is that of the first endpoint.
    talks += [(b"%d" % number, b"yes") for number in range(len(talks), int(CONTROL) + 1)]
    with serve(lab, "--allow-capture") as server:
        with capturing(lab, "--pcap", str(file), "--count", str(len(talks))) as process:
            clients = [converse(lab, server, *talk) for talk in talks]
            assert process.wait(30) == 0
        converse(lab, server, b"not", b"captured")

    assert complaints(file) == ""
    assert sorted(followed(file, stream) for stream in range(2 * len(talks))) == sorted([*talks, *talks])
    packets = read(file.read_bytes()).packets
    ends = {(each.interface, each.destination) for each in packets if each.flags == 2}
    endpoint = (lab.pods[1].address, 8080)
    assert ends == {(0, CLUSTER_IP), (1, endpoint)}
    assert {each.source for each in packets if each.flags == 2 and each.interface == 0} == set(clients)
    tried = f"tried before: {lab.pods[0].address}:8080 (Connection refused)"
    assert any(tried in each.comment for each in packets)


def test_without_allow_capture_it_is_one_sentence(lab: Lab) -> None:
    with serve(lab):
        done = subprocess.run(command(lab), capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: captures show what clients and Services say")
    assert done.stderr.count("\n") == 1
