"""The forwarder of a data process."""

import asyncio
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from random import Random

import pytest
from msgspec import structs

from tests.forwarding.conftest import LOOPBACK, NAME, Serve, echo, eventually
from tests.forwarding.own_descriptors import OwnDescriptors
from userproxy.errors import PortUnavailableError
from userproxy.forwarding.accept_turns import AcceptTurns, open_tally
from userproxy.forwarding.assembly.options import ForwardingOptions
from userproxy.forwarding.handover.values import ListenerChanged, RelayHandedOver
from userproxy.forwarding.limits.counts import LimitCounts
from userproxy.forwarding.poller import WHILE_DATAGRAMS, Handler, Owner, Poller
from userproxy.forwarding.portal_listeners import PortalListeners
from userproxy.forwarding.ports.ranges import PortRange
from userproxy.forwarding.sharing import SharingForwarder
from userproxy.forwarding.tcp.listener import TcpListener
from userproxy.forwarding.tcp.shared import SharedTcpListener
from userproxy.forwarding.tcp.sockets import ListeningSocket
from userproxy.forwarding.udp.groups.group import DatagramGroup
from userproxy.model import (
    Admission,
    AdmissionRule,
    Endpoint,
    IPFamily,
    Limits,
    PortalAddress,
    Protocol,
    Snapshot,
    TrafficClass,
    Verdict,
)

UDP_NAME = structs.replace(NAME, service_port=structs.replace(NAME.service_port, protocol=Protocol.UDP))


@pytest.fixture
def turns() -> Iterator[AcceptTurns]:
    """Those of a process that is alone."""
    tally = open_tally()
    with closing(AcceptTurns(tally, 1, 0)) as turns:
        os.close(tally)
        yield turns


async def test_connections_are_closed_without_asking_for_what_closing_does_itself(
    turns: AcceptTurns, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ForwardingOptions({IPFamily.IPV4: LOOPBACK}, PortRange(), False, 60.0, 10_000)
    forwarder = SharingForwarder(asyncio.get_running_loop(), options, Random(1), turns)
    address = await serve(echo)
    taken_out: list[socket.socket] = []
    monkeypatch.setattr(forwarder._poller, "close", taken_out.append)
    with closing(ListeningSocket.open(LOOPBACK, 0, Verdict.SERVE)) as listening:
        port = listening.port
        forwarder.adopt(NAME, 1, (), [os.dup(listening.fileno())])
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (Endpoint(*address),)))
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        writer.write(b"hello")
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 10) == b"hello"
        writer.close()
        await eventually(lambda: forwarder.active == 0)
    assert not taken_out
    assert len(forwarder._poller) == 1, "the listener"
    monkeypatch.undo()
    forwarder.shut_down()


async def test_a_listener_is_looked_at_once_it_lets_clients_in_only_if_some_may_have_come_before(
    turns: AcceptTurns, serve: Serve
) -> None:
    """A successor's data process has 10,000 of them: each look is a system call, at the moment when it begins."""
    options = ForwardingOptions({IPFamily.IPV4: LOOPBACK}, PortRange(), False, 60.0, 10_000)
    forwarder = SharingForwarder(asyncio.get_running_loop(), options, Random(1), turns)
    snapshot = Snapshot(NAME, Verdict.SERVE, (Endpoint(*await serve(echo)),))
    with closing(ListeningSocket.open(LOOPBACK, 0, Verdict.SERVE)) as listening:
        forwarder.adopt(NAME, 1, (), [os.dup(listening.fileno())])
        forwarder.update(snapshot)
        assert not forwarder._poller._again
        forwarder.leave(NAME)
        forwarder.adopt(NAME, 1, (), [os.dup(listening.fileno())])
        reader, writer = await asyncio.open_connection(LOOPBACK, listening.port)
        while not forwarder._listeners[NAME]._missed:  # type: ignore[union-attr]
            await asyncio.sleep(0)
        forwarder.update(snapshot)
        assert forwarder._poller._again
        writer.write(b"x")
        assert await asyncio.wait_for(reader.read(1), 10) == b"x"
        writer.close()
        await eventually(lambda: forwarder.active == 0)
        forwarder.shut_down()


async def test_thousands_of_sockets_are_looked_at_some_in_each_turn_of_the_loop(
    turns: AcceptTurns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has died: the clients of this one do not wait for a look at all there is."""
    options = ForwardingOptions({IPFamily.IPV4: LOOPBACK}, PortRange(), False, 60.0, 10_000)
    forwarder = SharingForwarder(asyncio.get_running_loop(), options, Random(1), turns)
    looks: list[SharedTcpListener] = []
    monkeypatch.setattr(SharedTcpListener, "look", lambda each: looks.append(each))
    for number in range(200):
        with closing(ListeningSocket.open(LOOPBACK, 0, Verdict.SERVE)) as listening:
            service_port = structs.replace(NAME.service_port, name=f"web{number}")
            forwarder.adopt(structs.replace(NAME, service_port=service_port), 1, (), [os.dup(listening.fileno())])
    forwarder.look()
    assert 0 < len(looks) <= 32
    while len(looks) < 200:
        before = len(looks)
        await asyncio.sleep(0)
        assert len(looks) - before <= 32
    assert set(looks) == set(forwarder._listeners.values())
    forwarder.shut_down()


async def test_sockets_of_connections_are_closed_for_another_process_and_idle_listeners_left_to_the_end(
    turns: AcceptTurns, serve: Serve
) -> None:
    """A successor is told when nobody else has copies of connections' sockets; of listeners it need not know."""
    options = ForwardingOptions({IPFamily.IPV4: LOOPBACK}, PortRange(), False, 60.0, 10_000)
    forwarder = SharingForwarder(asyncio.get_running_loop(), options, Random(1), turns)
    endpoints = (Endpoint(*await serve(echo)),)
    idle = structs.replace(NAME, traffic=TrafficClass.EXTERNAL)
    with (
        closing(ListeningSocket.open(LOOPBACK, 0, Verdict.SERVE)) as listening,
        closing(ListeningSocket.open(LOOPBACK, 0, Verdict.SERVE)) as unused,
    ):
        for number, (name, sock) in enumerate(((NAME, listening), (idle, unused)), 1):
            forwarder.adopt(name, number, (), [os.dup(sock.fileno())])
            forwarder.update(Snapshot(name, Verdict.SERVE, endpoints))
        _, writer = await asyncio.open_connection(LOOPBACK, listening.port)
        await eventually(lambda: forwarder.active == 1)
        used, other = forwarder._listeners[NAME], forwarder._listeners[idle]
        assert isinstance(used, TcpListener)
        assert isinstance(other, TcpListener)
        sockets = [used.socket, *next(iter(used.connections.members.values())).sockets]  # type: ignore[union-attr]
        figures = await forwarder.data_plane.listeners()
        forwarder.forsake()
        assert await forwarder.data_plane.listeners() == figures, "what is told last is no less than before"
        assert [each.fileno() for each in sockets] == [-1] * 3
        assert other.socket.fileno() >= 0
        writer.close()
        other.socket.close()


@pytest.mark.parametrize("how", ["look", "_accept_what_is_left", "resume"])
async def test_who_has_handed_over_accepts_nobody_though_idle_listeners_are_open(turns: AcceptTurns, how: str) -> None:
    """A look that was begun when another process ended, or clients left to others for a moment, may still be due."""
    options = ForwardingOptions({IPFamily.IPV4: LOOPBACK}, PortRange(), False, 60.0, 10_000)
    forwarder = SharingForwarder(asyncio.get_running_loop(), options, Random(1), turns)
    with closing(ListeningSocket.open(LOOPBACK, 0, Verdict.SERVE)) as listening, socket.socket() as client:
        forwarder.adopt(NAME, 1, (), [os.dup(listening.fileno())])
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (Endpoint(LOOPBACK, 9),)))
        listener = forwarder._listeners[NAME]
        assert isinstance(listener, TcpListener)
        forwarder.forsake()
        client.connect((LOOPBACK, listening.port))
        getattr(listener, how)()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert listener.queued == 1, "another process's client"
        listener.socket.close()


async def test_clients_of_a_listener_that_is_adopted_meanwhile_are_handed_over(
    turns: AcceptTurns, serve: Serve
) -> None:
    """A data process that has taken another one's place is told of 10,000 listeners one after the other."""
    options = ForwardingOptions({IPFamily.IPV4: LOOPBACK}, PortRange(), False, 60.0, 10_000)
    forwarder = SharingForwarder(asyncio.get_running_loop(), options, Random(1), turns)
    snapshot = Snapshot(NAME, Verdict.SERVE, (Endpoint(*await serve(echo)),))
    with ExitStack() as stack:
        giver = forwarder.hand_over()
        assert [item async for item, _ in giver.first() if isinstance(item, ListenerChanged)] == []
        listeners = []
        for number, traffic in enumerate((TrafficClass.EXTERNAL, TrafficClass.INTERNAL), 1):
            listeners.append(stack.enter_context(closing(ListeningSocket.open(LOOPBACK, 0, Verdict.SERVE))))
            name = structs.replace(NAME, traffic=traffic)
            forwarder.adopt(name, number, (), [os.dup(listeners[-1].fileno())])
            forwarder.update(structs.replace(snapshot, listener=name))
            _, writer = await asyncio.open_connection(LOOPBACK, listeners[-1].port)
            stack.callback(writer.close)
            writer.write(b"x")
            await eventually(lambda: forwarder.active == len(listeners))
            given = giver.rest() if number == 2 else [each async for each in giver.changed()]
            found = [(type(item), getattr(item, "number", 0) or getattr(item, "owner", 0)) for item, _ in given]
            assert (ListenerChanged, number) in found
            assert (RelayHandedOver, number) in found
        giver.cancel()
        forwarder.shut_down()


async def test_clients_are_counted_at_another_place_from_when_that_is_told(serve: Serve) -> None:
    """A control process that comes after another one gives places anew: what was counted goes there."""
    tally = open_tally()
    options = ForwardingOptions({IPFamily.IPV4: LOOPBACK}, PortRange(), False, 60.0, 10_000, processes=2)
    address = await serve(echo)
    ours, theirs = LimitCounts(tally, 2, 0), LimitCounts(tally, 2, 1)
    with (
        closing(AcceptTurns(tally, 2, 0)) as turns,
        closing(ListeningSocket.open(LOOPBACK, 0, Verdict.SERVE)) as listening,
    ):
        os.close(tally)
        forwarder = SharingForwarder(asyncio.get_running_loop(), options, Random(1), turns, 0, ours)
        forwarder.adopt(NAME, 1, (), [os.dup(listening.fileno())])
        snapshot = Snapshot(NAME, Verdict.SERVE, (Endpoint(*address),), limits=Limits(connections=5))
        forwarder.place_limits(NAME.service_port, 3)
        forwarder.update(snapshot)
        reader, writer = await asyncio.open_connection(LOOPBACK, listening.port)
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        assert theirs.column(3).others(is_first=False) == 1
        forwarder.place_limits(NAME.service_port, 4)
        forwarder.update(snapshot)
        assert theirs.column(4).others(is_first=False) == 1
        writer.close()
        await eventually(lambda: theirs.column(4).others(is_first=False) == 0)
        forwarder.shut_down()


async def test_a_portal_whose_sockets_cannot_be_watched_leaves_nothing_behind(
    turns: AcceptTurns, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ForwardingOptions({IPFamily.IPV4: LOOPBACK}, PortRange(), False, 60.0, 10_000, bind_portals=True)
    forwarder = SharingForwarder(asyncio.get_running_loop(), options, Random(1), turns)
    forwarder.adopt(UDP_NAME, 1, (), [])
    forwarder.update(Snapshot(UDP_NAME, Verdict.SERVE, (Endpoint(LOOPBACK, 9),)))
    admission = Admission((AdmissionRule("", UDP_NAME),), (AdmissionRule("", UDP_NAME),))
    sockets = [DatagramGroup.open(LOOPBACK, 0) for _ in range(3)]
    portal = PortalAddress(LOOPBACK, Protocol.UDP, sockets[0].port)
    add, is_refused = Poller.add, True

    def watch(poller: Poller, descriptor: int, events: int, handler: Handler, owner: Owner) -> None:
        if is_refused and events == WHILE_DATAGRAMS:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add(poller, descriptor, events, handler, owner)

    monkeypatch.setattr(Poller, "add", watch)

    def copies() -> list[int]:
        return [os.dup(each.descriptors[0]) for each in sockets]

    def serve(descriptors: list[int]) -> None:
        forwarder.adopt_portal(portal, admission, descriptors, (0, 1, 2), 3)

    ours, ports = OwnDescriptors(), forwarder._budget.room_for_ports
    with pytest.raises(PortUnavailableError, match="cannot be watched"):
        serve(copies())
    assert (len(ours), forwarder._budget.room_for_ports) == (0, ports)
    is_refused = False
    serve(copies())
    assert len(list(forwarder.shared_portals())) == 3
    monkeypatch.setattr(PortalListeners, "open_portals", None)  # one is found among thousands without a look at those
    assert forwarder.opened_portal(portal) is not None
    assert forwarder.opened_portal(structs.replace(portal, port=portal.port - 1)) is None
    monkeypatch.undo()
    forwarder.shut_down()
    for each in sockets:
        each.close()
