"""A data process that is told things by its control process, in this process."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from msgspec import Raw

from tests.processes.control.test_forwarding import OPTIONS
from userproxy.forwarding.accept_turns import open_tally
from userproxy.forwarding.ejection.cells import EjectionMemory
from userproxy.forwarding.limits.counts import LimitCounts
from userproxy.model import (
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
