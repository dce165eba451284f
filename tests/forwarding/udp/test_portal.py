"""Two listeners at one portal: what endpoints do for the clients of each is known to other processes."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, closing
from random import Random

import pytest

from tests.forwarding.conftest import eventually
from tests.forwarding.test_portal_listeners import (
    ELSEWHERE,
    UDP,
    backend,
    by_source,
    client,
    everybody,
    external,
    free_port,
    internal,
    received,
)
from userproxy.forwarding.accept_turns import AcceptTurns, open_tally
from userproxy.forwarding.assembly.options import ForwardingOptions
from userproxy.forwarding.ejection.cells import EjectionMemory, ListenerCells
from userproxy.forwarding.forwarder import Forwarder
from userproxy.forwarding.ports.ranges import PortRange
from userproxy.forwarding.sharing import SharingForwarder
from userproxy.forwarding.udp.sockets import DatagramSocket
from userproxy.model import Endpoint, ListenerName, PortalAddress, Protocol, Snapshot, Verdict

NAMES = internal(UDP), external(UDP)


@pytest.fixture
def tally() -> Iterator[int]:
    descriptor = open_tally()
    yield descriptor
    os.close(descriptor)


@pytest.fixture
async def forwarder(tally: int) -> AsyncIterator[SharingForwarder]:
    options = ForwardingOptions({}, PortRange(), True, 60.0, 10_000, bind_portals=True, processes=2)
    with closing(AcceptTurns(tally, 2, 0)) as turns:
        made = SharingForwarder(asyncio.get_running_loop(), options, Random(1), turns)
        for number, name in enumerate(NAMES):
            made.adopt(name, number, (), [])
        yield made
        made.shut_down()


def portal(forwarder: SharingForwarder, ip: str, *, for_all: bool) -> PortalAddress:
    address = PortalAddress(ip, Protocol.UDP, free_port(Protocol.UDP))
    admission = everybody(internal(UDP)) if for_all else by_source(UDP)
    forwarder.adopt_portal(address, admission, [DatagramSocket.open_shared(address.ip, address.port, None).detach()])
    return address


@pytest.mark.parametrize("shares_first", [False, True])
async def test_flows_count_for_the_listeners_whose_balancers_choose(
    forwarder: SharingForwarder, tally: int, *, shares_first: bool
) -> None:
    memory = EjectionMemory(tally, 2, 0)
    with ExitStack() as sockets:
        pod = backend(sockets)
        endpoint = Endpoint(*pod.getsockname())
        cells = {name: ListenerCells(memory, {endpoint: number}) for number, name in enumerate(NAMES)}

        def share() -> None:
            for name in NAMES:
                forwarder.update(Snapshot(name, Verdict.SERVE, (endpoint,)))
                forwarder.share_counts(name, cells[name])

        if shares_first:
            share()
        sorted_one = portal(forwarder, "127.96.0.53", for_all=False)
        inner = portal(forwarder, "127.96.0.54", for_all=True)
        if not shares_first:
            share()

        async def visit(address: PortalAddress, source: str) -> None:
            asking = client(sockets, address, source)
            asking.send(b"who?")
            _, flow = await received(pod)
            pod.sendto(b"me", flow)
            assert (await received(asking))[0] == b"me"

        def seen(name: ListenerName) -> tuple[int, int]:
            return memory.cell(NAMES.index(name)).total, forwarder.load_of(name, endpoint)[0]

        await visit(sorted_one, "127.0.0.1")
        await visit(sorted_one, ELSEWHERE)
        assert seen(internal(UDP)) == seen(external(UDP)) == (2, 2), "they are counted together"
        await visit(inner, "127.0.0.1")
        assert (seen(internal(UDP)), seen(external(UDP))) == ((3, 3), (2, 2))
        for flows in [each.flows for each in forwarder._udp.listeners]:
            for flow in list(flows):
                flow.close()
        await eventually(lambda: forwarder.load_of(internal(UDP), endpoint)[1] == 6)
        assert [memory.cell(number).bytes_down for number in (0, 1)] == [6, 4]
        forwarder.follow_portal(sorted_one, everybody(external(UDP)))
        await visit(sorted_one, ELSEWHERE)
        assert [memory.cell(number).total for number in (0, 1)] == [3, 3], "others have no clients there any more"
        forwarder.share_counts(external(UDP), None)
        await visit(sorted_one, "127.0.0.1")
        assert [memory.cell(number).total for number in (0, 1)] == [3, 3]


@pytest.fixture
async def alone() -> AsyncIterator[Forwarder]:
    """A process that serves portals by itself."""
    options = ForwardingOptions({}, PortRange(), True, 60.0, 10_000, bind_portals=True)
    made = Forwarder(asyncio.get_running_loop(), options, Random(1))
    for name in NAMES:
        made.open(name)
    yield made
    made.shut_down()


async def test_a_balancer_knows_of_clients_at_all_portals(alone: Forwarder) -> None:
    """Of a portal that has clients of two listeners, all are counted together."""
    with ExitStack() as sockets:
        pod = backend(sockets)
        served = (Endpoint(*pod.getsockname()),)
        wanted = {name: Snapshot(name, Verdict.SERVE, served, balancer="least-connections") for name in NAMES}
        for snapshot in wanted.values():
            alone.update(snapshot)
        shared, own = (PortalAddress("127.96.0.5", Protocol.UDP, free_port(Protocol.UDP)) for _ in range(2))
        balancer = alone._listeners[internal(UDP)].balancer

        def known() -> str:
            later = asyncio.get_running_loop().time() + 60  # what is on its way has arrived, or never will
            return balancer.peek("127.0.0.1", later).reason

        async def visited(address: PortalAddress, source: str = "127.0.0.1") -> None:
            client(sockets, address, source).send(b"who?")
            await received(pod)

        alone.serve_portal(shared, by_source(UDP))
        alone.serve_portal(own, everybody(internal(UDP)))
        for _ in range(3):
            await visited(shared)
        await visited(shared, ELSEWHERE)
        for _ in range(2):
            await visited(own)
        assert known() == "it has the fewest connections, 6"
        alone.serve_portal(shared, by_source(UDP))
        alone.update(wanted[internal(UDP)])
        assert known() == "it has the fewest connections, 6"
        alone.leave_portal(own)
        assert known() == "it has the fewest connections, 4"
        alone.serve_portal(shared, everybody(external(UDP)))
        assert known() == "it has the fewest connections, 0", "it has no clients any more"
