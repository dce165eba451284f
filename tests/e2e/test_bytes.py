"""Bytes, ends and memory, through real portals and between real hosts."""

import hashlib
import os
import signal
import socket
import struct
import threading

import pytest

from tests.lab.cluster import Lab
from tests.lab.manifests import Port
from tests.lab.proxy import RunningProxy
from userproxy.demo.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.parametrize("lab", ["manifests", "api"], indirect=True)]

CLUSTER_IP = ("10.96.0.10", 80)
MEGABYTE = 1_000_000


def serve(lab: Lab, *flags: str) -> tuple[RunningProxy, socket.socket]:
    """A Service whose only endpoint is a socket of this test's in the first Pod."""
    server = lab.pods[0].listen(8080)
    server.settimeout(10)
    lab.manifests.service("web", cluster_ip=CLUSTER_IP[0])
    lab.manifests.slice("web", lab.pods[:1], ports=[Port(80)])
    proxy = lab.node.start_userproxy(*flags)
    lab.node.wait_for_rules("default/web")
    return proxy, server


def connect(lab: Lab, server: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Both ends of one connection through the portal."""
    client = lab.client.connect(CLUSTER_IP, timeout=30)
    backend, _ = server.accept()
    backend.settimeout(30)
    return client, backend


def digest_of(sock: socket.socket) -> bytes:
    """sha256 of everything up to the FIN."""
    digest = hashlib.sha256()
    while data := sock.recv(1 << 20):
        digest.update(data)
    return digest.digest()


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("asker", ["client", "backend"])
def test_whoever_asks_and_half_closes_gets_all_of_a_100_mb_reply(lab: Lab, asker: str) -> None:
    _, server = serve(lab)
    with server:
        client, backend = connect(lab, server)
        asking, answering = (client, backend) if asker == "client" else (backend, client)
        asking.sendall(b"everything, please")
        asking.shutdown(socket.SHUT_WR)
        request = b""
        while piece := answering.recv(100):
            request += piece
        assert request == b"everything, please"
        block = os.urandom(MEGABYTE)
        expected = hashlib.sha256(block * 100).digest()

        def answer() -> None:
            for _ in range(100):
                answering.sendall(block)
            answering.close()

        sender = threading.Thread(target=answer)
        sender.start()
        assert digest_of(asking) == expected
        sender.join()
        asking.close()


@pytest.mark.parametrize("first", ["client", "backend"])
def test_a_reset_is_a_reset_on_the_other_side(lab: Lab, first: str) -> None:
    _, server = serve(lab)
    with server:
        client, backend = connect(lab, server)
        client.sendall(b"x")
        assert backend.recv(1) == b"x"
        ending, watching = (client, backend) if first == "client" else (backend, client)
        reset(ending)
        with pytest.raises(ConnectionResetError):
            watching.recv(1)
        watching.close()


def test_a_gigabyte_for_a_stopped_reader_costs_no_memory_and_arrives_in_the_end(lab: Lab) -> None:
    proxy, server = serve(lab)
    with server:
        client, backend = connect(lab, server)
        client.sendall(b"warm up")
        assert backend.recv(100) == b"warm up"
        proxy.wait_at_rest()  # or a data process that still starts is counted as memory for this
        before = proxy.rss()
        block = os.urandom(MEGABYTE)
        sent = [0]

        def push() -> None:
            for _ in range(1000):
                client.sendall(block)
                sent[0] += 1
            client.shutdown(socket.SHUT_WR)

        client.settimeout(60)
        pusher = threading.Thread(target=push)
        pusher.start()
        seen = [-1]

        def stalled() -> bool:
            seen.append(sent[0])
            return len(seen) > 100 and len(set(seen[-100:])) == 1

        eventually(stalled, 30, "the sender stalls")
        assert 0 < sent[0] < 200
        assert proxy.rss() - before < 8 * MEGABYTE
        assert digest_of(backend) == hashlib.sha256(block * 1000).digest()
        pusher.join()
        assert proxy.rss() - before < 8 * MEGABYTE
        client.close()
        backend.close()


def test_a_stop_drains(lab: Lab) -> None:
    proxy, server = serve(lab)
    with server:
        client, backend = connect(lab, server)
        proxy.signal(signal.SIGTERM)
        proxy.wait_log("Stopping")
        late, late_backend = connect(lab, server)  # rules lead it here, so it is served as well
        late.close()
        late_backend.close()
        for _ in range(3):
            client.sendall(b"still here")
            assert backend.recv(100) == b"still here"
        client.close()
        assert backend.recv(1) == b""
        backend.close()
        assert proxy.wait() == 0
    lab.node.wait_for_no_rules()


def test_a_stop_ends_when_the_drain_timeout_does(lab: Lab) -> None:
    proxy, server = serve(lab, "--drain-timeout", "300ms")
    with server:
        client, backend = connect(lab, server)
        assert proxy.terminate() == 0
        assert proxy.wait_log("outlasted --drain-timeout")["connections"] == 1
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        client.close()
        backend.close()
    lab.node.wait_for_no_rules()


def test_a_second_signal_ends_it_now(lab: Lab) -> None:
    proxy, server = serve(lab)
    with server:
        client, backend = connect(lab, server)
        proxy.signal(signal.SIGINT)
        proxy.wait_log("Stopping")
        proxy.signal(signal.SIGINT)
        assert proxy.wait() == 1
        client.close()
        backend.close()
    assert "removed" in lab.node.userproxy("cleanup").stdout
