"""What was taken over is in the order that it had, whatever order it came in."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec.structs import replace

from tests.forwarding.conftest import LOOPBACK, NAME, Serve, echo, eventually
from tests.forwarding.handover.conftest import a_forwarder, first, forwarders, passed, rest
from userproxy.forwarding.forwarder import Forwarder
from userproxy.forwarding.handover.values import FlowHandedOver, RelayHandedOver
from userproxy.forwarding.udp.listener import UdpListener
from userproxy.model import Endpoint, ListenerName, Protocol, ServicePortName, Snapshot, Verdict
from userproxy.processes.takeover.packages import packed_slowly, unpacked

_DNS = ListenerName(ServicePortName("default", "dns", "", Protocol.UDP))


@contextmanager
def a_client(plane: Forwarder) -> Iterator[socket.socket]:
    """One of a UDP Service of the plane, that has sent a datagram to a socket that never answers."""
    with socket.socket(type=socket.SOCK_DGRAM) as endpoint, socket.socket(type=socket.SOCK_DGRAM) as client:
        endpoint.bind((LOOPBACK, 0))
        client.connect((LOOPBACK, plane.open(_DNS)))
        plane.update(Snapshot(_DNS, Verdict.SERVE, (Endpoint(*endpoint.getsockname()),)))
        client.send(b"one")
        yield client


def flows_of(plane: Forwarder) -> tuple[int, int, int, int]:
    """How many a listener has by client and by age, as it counts them, and as the process does."""
    listener = plane._listeners[_DNS]
    assert isinstance(listener, UdpListener)
    return len(listener.flows), len(list(listener.flows)), listener.statistics.active, plane._udp.quota.total


async def test_connections_are_in_the_order_of_their_ids_before_the_end_of_what_comes(serve: Serve) -> None:
    async with forwarders() as planes:
        old, new = a_forwarder(), a_forwarder()
        planes += [old, new]
        port = old.open(NAME)
        old.update(Snapshot(NAME, Verdict.SERVE, (Endpoint(*await serve(echo)),)))
        talks = [await asyncio.open_connection(LOOPBACK, port) for _ in range(6)]
        await eventually(lambda: old.active == 6)
        giver, taker = old.hand_over(), new.take_over()
        relays = []
        async for item, descriptors in giver.first():
            copies = [os.dup(each) for each in descriptors]
            if isinstance(item, RelayHandedOver):
                relays.append((item, copies))
            else:
                taker.take(item, copies)
        for item, copies in (*relays[3:5], *relays[:3]):  # as of two processes, one after the other
            taker.take(item, copies)
        members = taker._connections[relays[0][0].owner].members
        taker.arrived()
        assert list(members) == sorted(members)
        taker.take(*relays[5])
        for item, descriptors in giver.rest():
            taker.take(item, [os.dup(each) for each in descriptors])
        taker.complete()
        assert list(members) == sorted(members)
        taker.go_on()
        new.went_on()
        old.forsake()
        for reader, writer in talks:
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            writer.close()
        await eventually(lambda: new.active == 0)


async def test_a_flow_of_a_client_whose_flow_before_is_told_to_have_ended_later_is_the_only_one() -> None:
    async with forwarders() as planes:
        old, new = a_forwarder(udp_timeout=0.5), a_forwarder(udp_timeout=0.5)
        planes += [old, new]
        with a_client(old) as client:
            await eventually(lambda: old.flows == 1)
            giver, taker = old.hand_over(), new.take_over()
            await first(giver, taker)
            await eventually(lambda: old.flows == 0)
            client.send(b"two")
            await eventually(lambda: old.flows == 1)
            async for package in packed_slowly(giver.changed()):  # what has a socket goes before what has none
                for item, its in unpacked(package.items, [os.dup(each) for each in package.descriptors]):
                    taker.take(item, its)
            rest(old, new, giver, taker)
            assert flows_of(new) == (1, 1, 1, 1)
            await eventually(lambda: flows_of(new) == (0, 0, 0, 0))


async def test_a_client_who_has_flows_in_two_processes_keeps_one() -> None:
    async with forwarders() as planes:
        old, new = a_forwarder(udp_timeout=0.5), a_forwarder(udp_timeout=0.5)
        planes += [old, new]
        with a_client(old):
            await eventually(lambda: old.flows == 1)
            giver, taker = old.hand_over(), new.take_over()
            async for item, descriptors in giver.first():
                passed(taker, iter([(item, descriptors)]))
                if isinstance(item, FlowHandedOver):
                    other = replace(item, state=replace(item.state, id=item.state.id + 10**12))
                    passed(taker, iter([(other, descriptors)]))
                    passed(taker, iter([(replace(item, is_new=False), [])]))  # it has changed since
            rest(old, new, giver, taker)
            assert flows_of(new) == (1, 1, 1, 1)
            await eventually(lambda: flows_of(new) == (0, 0, 0, 0))
