import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import pytest
from structlog.testing import capture_logs

from tests.portals.conftest import Network
from tests.portals.examples import EVERYWHERE
from userproxy.errors import OutOfDescriptorsError, PortUnavailableError
from userproxy.model import IPFamily, Protocol
from userproxy.portals import claims as claims_module
from userproxy.portals.claims import PortClaims
from userproxy.sockets import share

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


@pytest.fixture(params=list(IPFamily))
def family(request: pytest.FixtureRequest) -> IPFamily:
    return IPFamily(request.param)


@pytest.fixture
def claims(family: IPFamily) -> Iterator[PortClaims]:
    made = PortClaims(family)
    yield made
    made.close()


AF_NAMES = {IPFamily.IPV4: "AF_INET", IPFamily.IPV6: "AF_INET6"}
LOOPBACK = {IPFamily.IPV4: "127.0.0.1", IPFamily.IPV6: "::1"}
OTHER = {IPFamily.IPV4: "198.51.100.9", IPFamily.IPV6: "2001:db8:100::9"}


def other_program_takes_it(kind: str, family: str, options: str, address: str) -> bool:
    command = [sys.executable, "-c", OTHER_PROGRAM, family, kind, options, address, str(NODE_PORT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "got it" or "Address already in use" in done.stderr
    return done.returncode == 0


@pytest.mark.parametrize(("protocol", "kind"), [(Protocol.TCP, "SOCK_STREAM"), (Protocol.UDP, "SOCK_DGRAM")])
@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize("options", ["SO_REUSEADDR", "SO_REUSEADDR,SO_REUSEPORT"])
def test_no_other_program_takes_a_claimed_port(
    network: Network,
    claims: PortClaims,
    family: IPFamily,
    protocol: Protocol,
    kind: str,
    everywhere: bool,
    options: str,
) -> None:
    taken = partial(
        other_program_takes_it,
        kind,
        AF_NAMES[family],
        options,
        EVERYWHERE[family] if everywhere else LOOPBACK[family],
    )
    network.run(lambda: claims.claim("", protocol, NODE_PORT))
    assert claims.held == {("", protocol, NODE_PORT)}
    assert not network.run(taken)
    claims.release("", protocol, NODE_PORT)
    assert claims.held == frozenset()
    assert network.run(taken)


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_port_that_another_program_holds_is_named(
    network: Network, claims: PortClaims, family: IPFamily, everywhere: bool
) -> None:
    address = EVERYWHERE[family] if everywhere else LOOPBACK[family]
    holder = network.run(lambda: socket.create_server((address, NODE_PORT), family=getattr(socket, AF_NAMES[family])))
    with holder:
        with pytest.raises(PortUnavailableError, match=r"^TCP port 30080 cannot be claimed: another program holds it"):
            network.run(lambda: claims.claim("", Protocol.TCP, NODE_PORT))
        with pytest.raises(PortUnavailableError, match=r"^TCP port 30080 of [0-9a-f.:]+ cannot be claimed: another"):
            network.run(lambda: claims.claim(LOOPBACK[family], Protocol.TCP, NODE_PORT))
    network.run(lambda: claims.claim("", Protocol.TCP, NODE_PORT))


def test_the_other_family_is_left_alone(network: Network, claims: PortClaims, family: IPFamily) -> None:
    other = PortClaims(next(each for each in IPFamily if each is not family))
    network.run(lambda: claims.claim("", Protocol.TCP, NODE_PORT))
    network.run(lambda: other.claim("", Protocol.TCP, NODE_PORT))
    other.close()


def test_claiming_twice_and_releasing_twice_change_nothing(network: Network, claims: PortClaims) -> None:
    for _ in range(2):
        network.run(lambda: claims.claim("", Protocol.TCP, NODE_PORT))
    network.run(lambda: claims.claim("", Protocol.UDP, NODE_PORT))
    assert claims.held == {("", Protocol.TCP, NODE_PORT), ("", Protocol.UDP, NODE_PORT)}
    for _ in range(2):
        claims.release("", Protocol.TCP, NODE_PORT)
    assert claims.held == {("", Protocol.UDP, NODE_PORT)}


def test_a_claim_of_one_address_leaves_the_others(network: Network, claims: PortClaims, family: IPFamily) -> None:
    mask, *at_once = {IPFamily.IPV4: ("32",), IPFamily.IPV6: ("128", "nodad")}[family]
    network.shell("ip", "address", "add", f"{OTHER[family]}/{mask}", "dev", "lo", *at_once)
    network.run(lambda: claims.claim(OTHER[family], Protocol.TCP, NODE_PORT))
    taken = partial(other_program_takes_it, "SOCK_STREAM", AF_NAMES[family], "SO_REUSEADDR")
    assert not network.run(lambda: taken(OTHER[family]))
    assert not network.run(lambda: taken(EVERYWHERE[family]))
    assert network.run(lambda: taken(LOOPBACK[family]))


def test_an_address_that_no_interface_has_is_named(network: Network, claims: PortClaims, family: IPFamily) -> None:
    with pytest.raises(PortUnavailableError, match=r"of \S+ cannot be claimed: no interface has this address$"):
        network.run(lambda: claims.claim(OTHER[family], Protocol.TCP, NODE_PORT))
    assert claims.held == frozenset()


WITHOUT_PRIVILEGE = """
import os
from userproxy.model import IPFamily, Protocol
from userproxy.portals.claims import PortClaims

os.setuid(65534)
try:
    PortClaims(IPFamily.IPV4).claim("127.0.0.1", Protocol.UDP, 53)
except Exception as error:
    print(error)
"""


def test_a_port_that_takes_a_privilege_is_named(network: Network) -> None:
    command = [sys.executable, "-c", WITHOUT_PRIVILEGE]
    said = network.run(lambda: subprocess.run(command, capture_output=True, text=True, timeout=30, cwd="/")).stdout
    reason = "ports as low as this one take CAP_NET_BIND_SERVICE"
    assert said == f"UDP port 53 of 127.0.0.1 cannot be claimed: {reason}\n"


@pytest.mark.parametrize(("protocol", "kind"), [(Protocol.TCP, "SOCK_STREAM"), (Protocol.UDP, "SOCK_DGRAM")])
@pytest.mark.parametrize("order", [(True, False), (False, True)])
@pytest.mark.parametrize("released_first", [True, False])
def test_every_address_and_one_are_claimed_side_by_side(
    network: Network,
    claims: PortClaims,
    family: IPFamily,
    protocol: Protocol,
    kind: str,
    order: tuple[bool, bool],
    released_first: bool,
) -> None:
    """A node port, and an external IP of the node with the same port; neither opens the port to others."""

    def taken(address: str) -> bool:
        options = "SO_REUSEADDR,SO_REUSEPORT"
        return network.run(lambda: other_program_takes_it(kind, AF_NAMES[family], options, address))

    one = LOOPBACK[family]
    for everywhere in order:
        network.run(partial(claims.claim, "" if everywhere else one, protocol, NODE_PORT))
    assert claims.held == {("", protocol, NODE_PORT), (one, protocol, NODE_PORT)}
    assert not taken(one)
    assert not taken(EVERYWHERE[family])
    claims.release("" if released_first else one, protocol, NODE_PORT)
    assert not taken(one)
    assert not taken(EVERYWHERE[family])
    claims.close()
    assert taken(EVERYWHERE[family])


def listen(sock: socket.socket, address: tuple[str, int]) -> None:
    sock.bind(address)
    if sock.type == socket.SOCK_STREAM:
        sock.listen()


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
@pytest.mark.parametrize("everywhere", [True, False])
def test_a_port_at_which_the_local_driver_served_is_had_at_once(
    network: Network, claims: PortClaims, family: IPFamily, protocol: Protocol, everywhere: bool
) -> None:
    """It still listens, as before a handover, and then has connections that have ended (TIME_WAIT)."""
    loopback, number = LOOPBACK[family], socket.AF_INET6 if family is IPFamily.IPV6 else socket.AF_INET
    address, claim = (loopback, NODE_PORT), ("" if everywhere else loopback, protocol, NODE_PORT)
    kind = socket.SOCK_STREAM if protocol is Protocol.TCP else socket.SOCK_DGRAM

    def scenario() -> None:
        with socket.socket(number, kind) as portal:
            share(portal)
            portal.bind(address)
            if protocol is Protocol.TCP:
                portal.listen()
                with socket.create_connection(address) as client:
                    portal.accept()[0].close()
                    client.recv(1)
            claims.claim(*claim)
            claims.release(*claim)
        claims.claim(*claim)
        with socket.socket(number, kind) as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="Address already in use"):
                listen(other, address)

    network.run(scenario)


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
def test_a_program_that_would_share_its_port_keeps_it(
    network: Network, claims: PortClaims, family: IPFamily, protocol: Protocol
) -> None:
    def scenario() -> None:
        number = socket.AF_INET6 if family is IPFamily.IPV6 else socket.AF_INET
        kind = socket.SOCK_STREAM if protocol is Protocol.TCP else socket.SOCK_DGRAM
        with socket.socket(number, kind) as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            other.bind((EVERYWHERE[family], NODE_PORT))
            if protocol is Protocol.TCP:
                other.listen()
            with pytest.raises(PortUnavailableError, match="another program holds it"):
                claims.claim("", protocol, NODE_PORT)

    network.run(scenario)


def test_sctp_is_refused_by_name(claims: PortClaims) -> None:
    with pytest.raises(PortUnavailableError, match="SCTP port 30080"):
        claims.claim("", Protocol.SCTP, NODE_PORT)
    with pytest.raises(PortUnavailableError, match=r"SCTP port 30080 of 192\.0\.2\.10"):
        claims.claim("192.0.2.10", Protocol.SCTP, NODE_PORT)


async def test_where_the_kernel_does_not_tell_nothing_counts_as_taken_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = ("192.0.2.10", Protocol.TCP, NODE_PORT)
    claims_of_node = PortClaims(IPFamily.IPV4)
    reasons: list[str] = []
    for codes in ([errno.ENOENT, errno.ENOENT], [], [errno.ENOENT, errno.EPERM]):
        for code in codes:
            with monkeypatch.context() as patch, capture_logs() as logs:
                patch.setattr(claims_module, "listened_on", partial(refuse, code))
                assert await claims_of_node.taken([place]) == frozenset()
            reasons += [entry["reason"] for entry in logs]
        if not codes:
            assert await claims_of_node.taken([("127.0.0.1", Protocol.TCP, 1)]) == frozenset()
    assert [reason.startswith(os.strerror(errno.ENOENT)) for reason in reasons] == [True, True, False]


def refuse(code: int, *_: object) -> frozenset[object]:
    raise OSError(code, os.strerror(code))


def test_a_claimed_port_resets_connections_that_are_not_redirected(
    network: Network, claims: PortClaims, family: IPFamily
) -> None:
    network.run(lambda: claims.claim("", Protocol.TCP, NODE_PORT))
    with pytest.raises(ConnectionRefusedError):
        network.run(lambda: socket.create_connection((LOOPBACK[family], NODE_PORT), timeout=5))


class Descriptors:
    """So many are left for claims."""

    def __init__(self, left: int) -> None:
        self.left = left

    def take_for_port(self) -> None:
        if not self.left:
            raise OutOfDescriptorsError("none is left")
        self.left -= 1

    def adopt_port(self) -> None:
        self.left -= 1

    def give_port(self) -> None:
        self.left += 1


def test_claims_take_their_descriptors_from_what_there_is_for_ports(family: IPFamily) -> None:
    descriptors = Descriptors(2)
    claims, other = PortClaims(family, descriptors), PortClaims(family)
    other.claim(EVERYWHERE[family], Protocol.TCP, NODE_PORT)
    with pytest.raises(PortUnavailableError, match="another program holds it"):
        claims.claim(EVERYWHERE[family], Protocol.TCP, NODE_PORT)
    assert descriptors.left == 2
    for port in (NODE_PORT + 1, NODE_PORT + 2, NODE_PORT + 2):
        claims.claim("", Protocol.TCP, port)
    with pytest.raises(OutOfDescriptorsError):
        claims.claim("", Protocol.TCP, NODE_PORT + 3)
    claims.release("", Protocol.TCP, NODE_PORT + 1)
    claims.release("", Protocol.TCP, NODE_PORT + 1)
    assert descriptors.left == 1
    claims.close()
    other.close()
    assert descriptors.left == 2


def test_a_claim_of_another_process_is_held_on_until_it_is_known_that_nobody_wants_it(family: IPFamily) -> None:
    descriptors = Descriptors(8)
    before, after = PortClaims(family), PortClaims(family, descriptors)
    ports = [NODE_PORT, NODE_PORT + 1]
    for port in ports:
        before.claim("", Protocol.TCP, port)
    for (ip, protocol, port), sock in before.sockets():
        after.adopt(ip, protocol, port, os.dup(sock.fileno()))
    before.close()
    assert descriptors.left == 6
    after.claim("", Protocol.TCP, ports[0])
    after.release_unasked()
    assert after.held == {("", Protocol.TCP, ports[0])}
    assert descriptors.left == 7
    third = PortClaims(family)
    with pytest.raises(PortUnavailableError):
        third.claim("", Protocol.TCP, ports[0])
    third.claim("", Protocol.TCP, ports[1])
    third.close()
    after.close()
    assert descriptors.left == 8
