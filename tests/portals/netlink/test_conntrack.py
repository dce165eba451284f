"""Stale UDP entries, made by real rules and real datagrams: gone is what is named, and nothing else."""

import asyncio
import ctypes
import errno
import os
import socket
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from typing import NamedTuple

import pytest

from tests.portals.conftest import Network
from userproxy.demo.waiting import eventually
from userproxy.model import IPFamily, Protocol
from userproxy.portals.netlink.conntrack import Conntrack, ConntrackEntry

_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h


class Addresses(NamedTuple):
    """One family's part of the network."""

    family: IPFamily
    iptables: str
    client: str
    node: str
    beside: str
    portal: str
    prefix: int


V4 = Addresses(IPFamily.IPV4, "iptables", "192.0.2.1", "192.0.2.10", "10.96.0.1", "10.96.0.10", 24)
V6 = Addresses(IPFamily.IPV6, "ip6tables", "2001:db8::1", "2001:db8::10", "fd00:96::1", "fd00:96::10", 64)
DNS, NODE_PORT = 53, 30053
UDP, TCP = (Protocol.UDP,), (Protocol.TCP,)


class Node:
    """A node between its client and another host, which has the portal's address as long as no rule has it."""

    def __init__(self, network: Network, outside: Network, elsewhere: Network, at: Addresses) -> None:
        self.at = at
        self._network = network
        self._outside = outside
        self._elsewhere = elsewhere
        for name, peer in (("eth0", outside), ("eth1", elsewhere)):
            far = ("peer", "name", "eth0", "netns", str(peer.thread_id))
            network.shell("ip", "link", "add", name, "type", "veth", *far)
        no_dad = [] if at is V4 else ["nodad"]
        for where, name, address in (
            (network, "eth0", f"{at.node}/{at.prefix}"),
            (network, "eth1", f"{at.beside}/{at.prefix}"),
            (outside, "eth0", f"{at.client}/{at.prefix}"),
            (elsewhere, "eth0", f"{at.portal}/{at.prefix}"),
        ):
            where.shell("ip", "address", "add", address, "dev", name, *no_dad)
            where.shell("ip", "link", "set", name, "up")
        version = "-4" if at is V4 else "-6"
        outside.shell("ip", version, "route", "add", "default", "via", at.node)
        forwarding = "net.ipv4.ip_forward" if at is V4 else "net.ipv6.conf.all.forwarding"
        network.shell("sysctl", "-q", "-w", f"{forwarding}=1")
        # Connections are followed only where a rule asks for it.
        network.shell(at.iptables, "-A", "FORWARD", "-m", "state", "--state", "INVALID", "-j", "DROP")
        self._wait_for(outside, at.node)
        self._wait_for(network, at.portal)

    def _wait_for(self, where: Network, address: str) -> None:
        """Until a neighbour answers: a link takes its time to come up, and what is sent meanwhile may be lost."""
        deadline = time.monotonic() + 30
        while True:
            with closing(self._bound(where, "", 0, socket.SOCK_STREAM)) as asking:
                try:
                    asking.connect((address, 1))
                except ConnectionRefusedError:
                    return
                except OSError:
                    if time.monotonic() > deadline:
                        raise

    def lead(self, port: int, local_port: int, *, destination: str = "", protocol: str = "udp") -> None:
        """The only rule from now on: packets to `port` of the portal, or of `destination`, go to a local port."""
        self._network.shell(self.at.iptables, "-t", "nat", "-F", "PREROUTING")
        where = ("-d", destination or self.at.portal, "-p", protocol, "--dport", str(port))
        to = ("-j", "REDIRECT", "--to-ports", str(local_port))
        self._network.shell(self.at.iptables, "-t", "nat", "-A", "PREROUTING", *where, *to)

    def listener(self, port: int = 0, kind: int = socket.SOCK_DGRAM) -> socket.socket:
        return self._bound(self._network, self.at.node, port, kind)

    def elsewhere(self) -> socket.socket:
        """Receives what is forwarded to the portal's address."""
        return self._bound(self._elsewhere, self.at.portal, DNS, socket.SOCK_DGRAM)

    def client(self, kind: int = socket.SOCK_DGRAM) -> socket.socket:
        return self._bound(self._outside, self.at.client, 0, kind)

    def _bound(self, where: Network, address: str, port: int, kind: int) -> socket.socket:
        family = socket.AF_INET if self.at is V4 else socket.AF_INET6
        made = where.run(lambda: socket.socket(family, kind))
        made.settimeout(10)
        made.bind((address, port))
        return made

    def ignore(self) -> None:
        """Have the portal's address, as long as no rule has it, answer no connection from now on."""
        self._elsewhere.shell(self.at.iptables, "-A", "INPUT", "-p", "tcp", "-j", "DROP")

    def delete(self, is_stale: Callable[[ConntrackEntry], bool], protocols: Collection[Protocol] = UDP) -> int:
        return self._network.run_loop(lambda: Conntrack(self.at.family).delete(protocols, is_stale))

    def entries(self, protocols: Collection[Protocol] = UDP) -> set[ConntrackEntry]:
        found: set[ConntrackEntry] = set()

        def keep(entry: ConntrackEntry) -> bool:
            found.add(entry)
            return False

        assert self.delete(keep, protocols) == 0
        return found


@pytest.fixture
def elsewhere(network: Network) -> Iterator[Network]:
    made = Network()
    yield made
    made.close()


@pytest.fixture(params=[V4, V6], ids=["IPv4", "IPv6"])
def node(request: pytest.FixtureRequest, network: Network, outside: Network, elsewhere: Network) -> Node:
    return Node(network, outside, elsewhere, request.param)


@pytest.fixture
def node4(network: Network, outside: Network, elsewhere: Network) -> Node:
    """For what is the same in both families."""
    return Node(network, outside, elsewhere, V4)


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def received(sock: socket.socket) -> bytes:
    return sock.recv(100)


def test_a_listener_that_moved_is_reached_again(node: Node) -> None:
    at = node.at
    with closing(node.listener()) as old, closing(node.listener()) as new, closing(node.client()) as client:
        node.lead(DNS, port_of(old))
        client.sendto(b"1", (at.portal, DNS))
        assert received(old) == b"1"
        node.lead(DNS, port_of(new))
        client.sendto(b"2", (at.portal, DNS))
        assert received(old) == b"2", "an entry outlives its rule"
        assert node.entries() == {
            ConntrackEntry(at.client, port_of(client), at.portal, DNS, at.node, port_of(old), reply_local=True)
        }
        assert node.delete(lambda entry: entry.reply_port == port_of(old)) == 1
        client.sendto(b"3", (at.portal, DNS))
        assert received(new) == b"3"


def test_a_client_that_wrote_before_there_was_a_rule(node: Node) -> None:
    at = node.at
    with closing(node.listener()) as listener, closing(node.elsewhere()) as stray, closing(node.client()) as client:
        client.sendto(b"1", (at.portal, DNS))
        assert received(stray) == b"1"
        node.lead(DNS, port_of(listener))
        client.sendto(b"2", (at.portal, DNS))
        assert received(stray) == b"2", "no rule is asked for an entry that there is"
        assert node.entries() == {ConntrackEntry(at.client, port_of(client), at.portal, DNS, at.portal, DNS)}
        assert node.delete(lambda entry: (entry.destination, entry.reply_source) == (at.portal, at.portal)) == 1
        client.sendto(b"3", (at.portal, DNS))
        assert received(listener) == b"3"


def test_a_client_that_wrote_to_a_node_port_before_there_was_a_rule(node: Node) -> None:
    at = node.at
    with (
        closing(node.listener()) as listener,
        closing(node.listener(NODE_PORT)) as claim,
        closing(node.client()) as client,
    ):
        client.sendto(b"1", (at.node, NODE_PORT))
        assert received(claim) == b"1"
        node.lead(NODE_PORT, port_of(listener), destination=at.node)
        client.sendto(b"2", (at.node, NODE_PORT))
        assert received(claim) == b"2"
        untranslated = ConntrackEntry(
            *(at.client, port_of(client), at.node, NODE_PORT, at.node, NODE_PORT),
            destination_local=True,
            reply_local=True,
        )
        assert node.entries() == {untranslated}
        assert node.delete(lambda entry: entry == untranslated) == 1
        client.sendto(b"3", (at.node, NODE_PORT))
        assert received(listener) == b"3"


def test_a_client_that_dialled_before_there_was_a_rule(node: Node) -> None:
    at = node.at
    node.ignore()
    with (
        closing(node.listener(kind=socket.SOCK_STREAM)) as listener,
        closing(node.listener(DNS, socket.SOCK_STREAM)) as other,
        closing(node.client(socket.SOCK_STREAM)) as client,
        closing(node.client(socket.SOCK_STREAM)) as before,
    ):
        listener.listen()
        other.listen()
        before.connect((at.node, DNS))
        client.setblocking(False)
        assert client.connect_ex((at.portal, DNS)) == errno.EINPROGRESS
        early = ConntrackEntry(at.client, port_of(client), at.portal, DNS, at.portal, DNS, protocol=Protocol.TCP)
        deadline = time.monotonic() + 10
        while node.entries(TCP) != {early}:
            assert time.monotonic() < deadline
        node.lead(DNS, port_of(listener), protocol="tcp")
        assert node.entries(UDP) == set()
        assert node.delete(lambda _: True, UDP) == 0
        assert node.delete(lambda entry: entry == early, (*TCP, *UDP)) == 1
        listener.settimeout(10)
        with listener.accept()[0], other.accept()[0] as established:
            assert node.entries(TCP) == set(), "who has an answer is not looked at"
            before.sendall(b"still there")
            assert established.recv(100) == b"still there"


def test_everything_else_stays(node4: Node) -> None:
    at = node4.at
    with (
        closing(node4.listener()) as old,
        closing(node4.listener(NODE_PORT)) as claim,
        closing(node4.listener(DNS, socket.SOCK_STREAM)) as tcp,
        closing(node4.client()) as client,
        closing(node4.client()) as other,
        closing(node4.client(socket.SOCK_STREAM)) as caller,
    ):
        node4.lead(DNS, port_of(old))
        tcp.listen()
        caller.connect((at.node, DNS))
        with tcp.accept()[0] as connection:
            for sock, port, to in ((client, DNS, old), (client, NODE_PORT, claim), (other, DNS, old)):
                sock.sendto(b"x", (at.portal if port == DNS else at.node, port))
                assert received(to) == b"x"
            before = node4.entries()
            assert len(before) == 3
            assert node4.delete(lambda e: (e.source_port, e.port) == (port_of(client), DNS)) == 1
            assert {entry for entry in before if entry not in node4.entries()} == {
                ConntrackEntry(at.client, port_of(client), at.portal, DNS, at.node, port_of(old), reply_local=True)
            }
            caller.sendall(b"still there")
            assert connection.recv(100) == b"still there"


def test_many_entries_go_at_once_and_the_others_stay(node4: Node) -> None:
    with closing(node4.listener()) as own:
        for port in range(1000, 3000):
            own.sendto(b"x", (node4.at.portal, port))
    assert node4.delete(lambda entry: entry.port % 4 != 0) == 1500
    assert {entry.port for entry in node4.entries()} == set(range(1000, 3000, 4))


def test_an_entry_in_a_zone_of_its_own(network: Network, node4: Node) -> None:
    network.shell("iptables", "-t", "raw", "-A", "OUTPUT", "-p", "udp", "-j", "CT", "--zone", "7")
    with closing(node4.listener()) as own:
        own.sendto(b"x", (node4.at.portal, DNS))
    assert len(node4.entries()) == 1
    assert node4.delete(lambda _: True) == 1
    assert node4.entries() == set()


def test_an_ipv6_address_that_ends_like_one_of_ipv4_is_written_as_everywhere_else(
    network: Network, outside: Network, elsewhere: Network
) -> None:
    node, address = Node(network, outside, elsewhere, V6), "::c000:201"  # the C library writes ::192.0.2.1
    network.shell("ip", "address", "add", f"{address}/128", "dev", "lo", "nodad")
    with closing(network.run(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))) as own:
        own.bind((address, 0))
        own.sendto(b"x", own.getsockname())
        port = port_of(own)
    assert eventually(node.entries, 10, "the entry") == {
        ConntrackEntry(address, port, address, port, address, port, destination_local=True, reply_local=True)
    }


def test_a_later_entry_of_the_same_parties_stays(node4: Node) -> None:
    """While the kernel lists and we decide, the entry may end and its client be led right."""
    looked_at: list[ConntrackEntry] = []

    def write_anew(entry: ConntrackEntry) -> bool:
        looked_at.append(entry)
        if len(looked_at) > 1:
            return False
        assert asyncio.run(Conntrack(IPFamily.IPV4).delete(UDP, lambda _: True)) == 1
        for port in range(1000, 1100):  # the kernel's number of an entry is made of its place in memory, too
            own.sendto(b"x", (node4.at.portal, port))
        own.sendto(b"x", (node4.at.portal, DNS))
        return True

    with closing(node4.listener()) as own:
        own.sendto(b"x", (node4.at.portal, DNS))
        assert node4.delete(write_anew) == 0
        assert looked_at[0].port == DNS
        assert [entry.port for entry in node4.entries()].count(DNS) == 1


def test_the_other_family_is_not_looked_at(network: Network, node4: Node) -> None:
    with closing(node4.listener()) as listener, closing(node4.client()) as client:
        node4.lead(DNS, port_of(listener))
        client.sendto(b"1", (V4.portal, DNS))
        assert received(listener) == b"1"
        assert network.run_loop(lambda: Conntrack(IPFamily.IPV6).delete(UDP, lambda _: True)) == 0
        assert len(node4.entries()) == 1


def test_nothing_to_delete_is_no_error(network: Network, capsys: pytest.CaptureFixture[str]) -> None:
    assert network.run_loop(lambda: Conntrack(IPFamily.IPV4).delete(UDP, lambda _: True)) == 0
    assert capsys.readouterr().out == ""


def test_without_the_privilege_it_goes_on_and_says_so_once(
    network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    network.run(drop_capabilities)
    conntrack = Conntrack(IPFamily.IPV4)
    for _ in range(3):
        assert network.run_loop(lambda: conntrack.delete(UDP, lambda _: True)) == 0
    output = capsys.readouterr().out
    assert output.count("Stale conntrack entries cannot be deleted") == 1
    assert os.strerror(errno.EPERM) in output


def test_the_loop_goes_on_meanwhile(network: Network) -> None:
    async def scenario() -> int:
        loop = asyncio.get_running_loop()

        async def answer() -> bool:
            return True

        def is_stale(_: ConntrackEntry) -> bool:
            return asyncio.run_coroutine_threadsafe(answer(), loop).result(10)

        return await Conntrack(IPFamily.IPV4).delete(UDP, is_stale)

    network.shell("iptables", "-A", "INPUT", "-m", "state", "--state", "INVALID", "-j", "DROP")
    with closing(network.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))) as own:
        own.bind(("127.0.0.1", 0))
        own.sendto(b"x", own.getsockname())
        assert network.run_loop(scenario) == 1


def drop_capabilities() -> None:
    """Of the calling thread, and of those that it starts."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(header, nothing):
        raise OSError(ctypes.get_errno(), "capset")
