"""A data process that is told things by its control process, in this process."""

import asyncio
import gc
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager

import pytest
from msgspec import Raw

from tests.forwarding.conftest import LOOPBACK, eventually
from tests.processes.control.test_forwarding import OPTIONS
from userproxy.forwarding import sharing
from userproxy.forwarding.accept_turns import open_tally
from userproxy.forwarding.ejection.cells import EjectionMemory
from userproxy.forwarding.limits.counts import LimitCounts
from userproxy.forwarding.udp.listening import clients
from userproxy.forwarding.udp.sockets import DatagramSocket
from userproxy.model import (
    Endpoint,
    IPFamily,
    ListenerName,
    Protocol,
    ServicePortName,
    Snapshot,
    TrafficClass,
    Verdict,
)
from userproxy.processes.channel import Channel, Decoder, encode, socket_pair
from userproxy.processes.data.process import serve
from userproxy.processes.messages import (
    Adopt,
    AdoptSeveral,
    Close,
    CloseUnasked,
    FromData,
    Leave,
    Logging,
    NotServed,
    Pulse,
    Settled,
    Start,
    Told,
    Update,
)
from userproxy.processes.questions import Answer, AskProcess

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of this process and its log are the tests'."""
    monkeypatch.setattr("userproxy.processes.data.process.name_process", lambda _: None)
    monkeypatch.setattr("userproxy.processes.data.process.log_to_whoever_reads", lambda *_: None)


@asynccontextmanager
async def told(heard: list[FromData] | None = None) -> AsyncIterator[Channel[FromData]]:
    """What a data process of this process is told by, and what has been `heard` of it."""
    loop, (ours, theirs) = asyncio.get_running_loop(), socket_pair()
    pulses = asyncio.Event()

    def received(message: FromData, _descriptors: list[int]) -> None:
        if heard is not None:
            heard.append(message)
        if isinstance(message, Pulse):
            pulses.set()

    decoder: Decoder[FromData] = Decoder(FromData)
    channel = Channel(loop, ours, decoder, received, lambda _: None)
    tally = open_tally()
    LimitCounts(tally, 1)
    EjectionMemory(tally, 1)
    channel.send(Start(1, 1, OPTIONS, 0), [tally])
    os.close(tally)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(serve(theirs, Logging(0, "text")), name="data process")
            await asyncio.wait_for(pulses.wait(), 10)
            yield channel
            channel.send(Leave())
    finally:
        channel.close()


@contextmanager
def datagram_socket() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LOOPBACK, 0))
        sock.settimeout(20)
        yield sock


@pytest.fixture
def collector() -> Iterator[None]:
    """The garbage collector is afterwards as it was."""
    threshold = gc.get_threshold()
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)


@pytest.mark.usefixtures("collector")
@pytest.mark.parametrize("message", [Settled(), CloseUnasked(IPFamily.IPV4)])
async def test_what_is_there_once_all_is_told_is_not_looked_at_by_the_garbage_collector(message: object) -> None:
    """To look through 10,000 listeners takes 40 ms, in which nobody is served."""
    async with told() as channel:
        assert gc.get_freeze_count() == 0
        channel.send(message)
        async with asyncio.timeout(10):
            while not gc.get_freeze_count():
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("waits", [True, False])
async def test_who_has_asked_before_a_successor_has_the_listener_is_answered_and_its_copy_closed_then(
    waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "PENDING_SECONDS", 20.0)
    monkeypatch.setattr(clients, "PENDING_SECONDS", 20.0)
    name = ListenerName(ServicePortName("default", "dns", "dns", Protocol.UDP), IPFamily.IPV4, TrafficClass.INTERNAL)
    heard: list[FromData] = []
    with datagram_socket() as endpoint, datagram_socket() as client:
        snapshot = Snapshot(name, Verdict.SERVE, (Endpoint(*endpoint.getsockname()),))
        async with told(heard) as channel:
            with closing(DatagramSocket.open(LOOPBACK, 0)) as listening:
                client.connect(listening.getsockname())
                client.send(b"?")
                channel.send(Adopt(name, 1, (0,)), [listening.fileno()])
                channel.send(Update(snapshot))
                _, flow = await asyncio.to_thread(endpoint.recvfrom, 100)
                if not waits:
                    endpoint.sendto(b"!", flow)
                    assert await asyncio.to_thread(client.recv, 100) == b"!"
                channel.send(Close(name, has_successor=True))
                channel.send(AskProcess(1))
                await eventually(lambda: any(isinstance(each, Answer) for each in heard))
            if waits:
                client.send(b"nobody reads this")
                endpoint.sendto(b"!", flow)
                assert await asyncio.to_thread(client.recv, 100) == b"!"
            await eventually(lambda: is_free(client.getpeername()))
            endpoint.setblocking(False)
            with pytest.raises(BlockingIOError):
                endpoint.recv(100)


def is_free(address: tuple[str, int]) -> bool:
    """Whether no socket has the address any more."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(address)
        except OSError:
            return False
        return True


async def test_a_listener_that_cannot_be_taken_in_costs_none_of_those_that_are_told_with_it() -> None:
    """The first part is garbled, and the second one is of a listener whose socket has not come."""
    name = ListenerName(ServicePortName("default", "web", "http", Protocol.TCP), IPFamily.IPV4, TrafficClass.INTERNAL)
    good = encode(Told(Adopt(name, 1, (0,)), Update(Snapshot(name, Verdict.REJECT))))
    heard: list[FromData] = []
    failures: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    async with told(heard) as channel:
        channel.send(AdoptSeveral((Raw(b"\x90"), Raw(good))))
        async with asyncio.timeout(10):
            while not any(isinstance(each, NotServed) and each.listener == name for each in heard):
                await asyncio.sleep(0.01)
    assert len(failures) == 1
