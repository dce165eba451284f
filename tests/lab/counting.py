"""A server that counts its connections and their bytes, and a client of connections whose sizes are known."""

from concurrent.futures import ThreadPoolExecutor

import msgspec

from userproxy.demo.hosts import Address, Host
from userproxy.demo.traffic import http

COUNTING_SERVER = """
import json, socket, threading
connections = up = down = 0
lock = threading.Lock()

def serve(client):
    global connections, up, down
    with client:
        size = sum(len(data) for data in iter(lambda: client.recv(65536), b""))
        with lock:
            connections += 1
            up += size
            down += 3 * size
        client.sendall(bytes(3 * size))

def tell(sock):
    while True:
        client, _ = sock.accept()
        with client:
            body = json.dumps({"connections": connections, "up": up, "down": down}).encode()
            client.recv(65536)
            client.sendall(b"HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)

threading.Thread(target=tell, args=(socket.create_server(("", 9000)),), daemon=True).start()
with socket.create_server(("", 8080), backlog=1024) as server:
    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
"""Answers at port 8080 with three bytes for each that it gets, and tells at port 9000 what it has counted."""


class Counted(msgspec.Struct, frozen=True):
    """What a Pod has counted: connections, bytes from clients, bytes to them."""

    connections: int
    up: int
    down: int


def counted(host: Host, pod: Host) -> Counted:
    """What the counting server of a Pod says of itself, asked from `host` without a proxy between them."""
    return msgspec.json.decode(http(host, (pod.address, 9000)), type=Counted)


def exchange(host: Host, address: Address, size: int) -> int:
    """One connection: send `size` bytes, and a FIN, and count what comes back up to its FIN."""
    with host.connect(address) as client:
        client.sendall(bytes(size))
        client.shutdown(1)
        return sum(len(data) for data in iter(lambda: client.recv(65536), b""))


def exchange_all(host: Host, addresses: list[Address], sizes: list[int]) -> list[int]:
    """A connection of each size, at the addresses in turn, sixteen at a time: what came back of each."""
    with ThreadPoolExecutor(16) as clients:
        return list(
            clients.map(
                lambda each: exchange(host, addresses[each[0] % len(addresses)], each[1]),
                enumerate(sizes),
            )
        )
