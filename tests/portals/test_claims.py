import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.portals.conftest import Network
from tests.portals.examples import WEB_NAME
from userproxy.errors import PortUnavailableError
from userproxy.model import Portal, PortalBinding, PortalKind, Protocol
from userproxy.portals.claims import PortClaims
from userproxy.portals.iptables import IptablesDriver
from userproxy.portals.variant import Tools

NODE_PORT = 30080

OTHER_PROGRAM = """
import socket, sys
other = socket.socket(getattr(socket, sys.argv[1]), getattr(socket, sys.argv[2]))
for option in sys.argv[3].split(","):
    other.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
other.bind((sys.argv[4], int(sys.argv[5])))
if sys.argv[2] == "SOCK_STREAM":
    other.listen()
print("got it")
"""


@pytest.fixture
def claims() -> Iterator[PortClaims]:
    made = PortClaims()
    yield made
    made.close()


def other_program_takes_it(kind: str, family: str, options: str, address: str) -> bool:
    command = [sys.executable, "-c", OTHER_PROGRAM, family, kind, options, address, str(NODE_PORT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "got it" or "Address already in use" in done.stderr
    return done.returncode == 0


@pytest.mark.parametrize(("protocol", "kind"), [(Protocol.TCP, "SOCK_STREAM"), (Protocol.UDP, "SOCK_DGRAM")])
@pytest.mark.parametrize(
    ("family", "address"), [("AF_INET", "0.0.0.0"), ("AF_INET", "127.0.0.1"), ("AF_INET6", "::"), ("AF_INET6", "::1")]
)
@pytest.mark.parametrize("options", ["SO_REUSEADDR", "SO_REUSEADDR,SO_REUSEPORT"])
def test_no_other_program_takes_a_claimed_port(
    network: Network, claims: PortClaims, protocol: Protocol, kind: str, family: str, address: str, options: str
) -> None:
    network.run(lambda: claims.claim(protocol, NODE_PORT))
    assert claims.held == {(protocol, NODE_PORT)}
    assert not network.run(lambda: other_program_takes_it(kind, family, options, address))
    claims.release(protocol, NODE_PORT)
    assert claims.held == frozenset()
    assert network.run(lambda: other_program_takes_it(kind, family, options, address))


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1"])
def test_a_port_that_another_program_holds_is_named(network: Network, claims: PortClaims, address: str) -> None:
    def hold() -> socket.socket:
        return socket.create_server((address, NODE_PORT))

    holder = network.run(hold)
    with (
        holder,
        pytest.raises(PortUnavailableError, match=r"^TCP port 30080 cannot be claimed: another program holds it"),
    ):
        network.run(lambda: claims.claim(Protocol.TCP, NODE_PORT))
    network.run(lambda: claims.claim(Protocol.TCP, NODE_PORT))


def test_claiming_twice_and_releasing_twice_change_nothing(network: Network, claims: PortClaims) -> None:
    for _ in range(2):
        network.run(lambda: claims.claim(Protocol.TCP, NODE_PORT))
    network.run(lambda: claims.claim(Protocol.UDP, NODE_PORT))
    assert claims.held == {(Protocol.TCP, NODE_PORT), (Protocol.UDP, NODE_PORT)}
    for _ in range(2):
        claims.release(Protocol.TCP, NODE_PORT)
    assert claims.held == {(Protocol.UDP, NODE_PORT)}


def test_sctp_is_refused_by_name(claims: PortClaims) -> None:
    with pytest.raises(PortUnavailableError, match="SCTP port 30080"):
        claims.claim(Protocol.SCTP, NODE_PORT)


def test_where_ipv6_is_off_ipv4_is_claimed(
    network: Network, claims: PortClaims, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only booting with ipv6.disable=1 takes AF_INET6 away; a family that no kernel has fails the same way.
    monkeypatch.setattr("userproxy.portals.claims.socket.AF_INET6", 250)
    network.run(lambda: claims.claim(Protocol.TCP, NODE_PORT))
    assert not network.run(lambda: other_program_takes_it("SOCK_STREAM", "AF_INET", "SO_REUSEADDR", "0.0.0.0"))


def test_a_claimed_port_resets_connections_that_are_not_redirected(network: Network, claims: PortClaims) -> None:
    network.run(lambda: claims.claim(Protocol.TCP, NODE_PORT))
    with pytest.raises(ConnectionRefusedError):
        network.run(lambda: socket.create_connection(("127.0.0.1", NODE_PORT), timeout=5))


def test_traffic_redirected_from_a_claimed_port_arrives(
    node: Network, outside: Network, tools: Tools, claims: PortClaims
) -> None:
    node.shell("ip", "link", "set", "far0", "netns", str(outside.thread_id))
    outside.shell("ip", "address", "add", "192.0.2.1/24", "dev", "far0")
    outside.shell("ip", "link", "set", "far0", "up")
    node.run(lambda: claims.claim(Protocol.TCP, NODE_PORT))
    listener = node.run(lambda: socket.create_server(("0.0.0.0", 0)))
    binding = PortalBinding(WEB_NAME, listener.getsockname()[1], (Portal(PortalKind.NODE_PORT, "", NODE_PORT),))

    async def sync() -> None:
        driver = IptablesDriver("0.0.0.0")
        await driver.sync([binding])
        await driver.close()

    node.run_loop(sync)
    with listener:
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        assert node.run(ask) == b"listener"
        assert outside.run(ask) == b"listener"


def answer(listener: socket.socket) -> None:
    for _ in range(2):
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"listener")


def ask() -> bytes:
    with socket.create_connection(("192.0.2.10", NODE_PORT), timeout=10) as connection:
        return connection.recv(100)
