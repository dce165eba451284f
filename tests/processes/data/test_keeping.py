"""What owns the way back for clients' addresses is held as long as somebody needs it, and no longer."""

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from tests.forwarding.conftest import NAME, Bench, Serve, eventually, open_bench
from tests.processes.control.test_return_paths import Owner
from userproxy.forwarding.tcp.relay import Relay
from userproxy.model import IPFamily
from userproxy.model.reports import ALL, Source
from userproxy.processes.data import keeping
from userproxy.processes.data.keeping import Keeping

FOUR, SIX = IPFamily.IPV4, IPFamily.IPV6


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "_LOOK_EVERY", 0.001)


@pytest.fixture
async def bench(serve: Serve) -> AsyncIterator[Bench]:
    async def stay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    async with open_bench() as made:
        made.route_to(await serve(stay))
        yield made


def held(owner: Owner, under: Keeping, family: IPFamily = FOUR) -> Owner:
    """`owner`, of which nobody but `under` has a copy."""
    under.keep(family, [os.dup(owner.descriptor)])
    owner.die()
    return owner


async def looked(under: Keeping) -> None:
    """Return once it has been looked several times."""
    seen = 0
    members = under._plane.members

    def count(query: object) -> object:
        nonlocal seen
        seen += 1
        return members(query)  # type: ignore[arg-type]

    under._plane.members = count  # type: ignore[method-assign, assignment]
    await eventually(lambda: seen > 5)


async def a_relay(bench: Bench) -> tuple[Relay, asyncio.StreamReader, asyncio.StreamWriter]:
    """An established connection."""
    reader, writer = await bench.connect()
    writer.write(b"hello\n")
    assert await reader.readline() == b"hello\n"
    (relay,) = [each async for each in bench.forwarder.data_plane.members(ALL)]
    assert isinstance(relay, Relay)
    return relay, reader, writer


async def test_it_is_let_go_of_when_the_last_connection_that_keeps_its_clients_address_has_ended(bench: Bench) -> None:
    async with asyncio.TaskGroup() as group:
        kept = Keeping(bench.forwarder.data_plane, group)
        owner = held(Owner(), kept)
        relay, reader, writer = await a_relay(bench)
        relay.dial.source = Source.CLIENT
        kept.let_go(FOUR)
        await looked(kept)
        assert owner.stands
        with capture_logs() as logs:
            writer.close()
            assert await reader.read() == b""
            await eventually(lambda: not owner.stands)
        assert [each["family"] for each in logs if "way back" in each["event"]] == [FOUR]
    owner.close()


async def test_connections_from_the_nodes_address_and_those_of_the_other_family_do_not_count(bench: Bench) -> None:
    async with asyncio.TaskGroup() as group:
        kept = Keeping(bench.forwarder.data_plane, group)
        four, six = held(Owner(), kept), held(Owner(), kept, SIX)
        relay, _, writer = await a_relay(bench)
        assert relay.dial.source is Source.NODE
        kept.let_go(FOUR)
        await eventually(lambda: not four.stands)
        assert six.stands, "nobody has said so of this family"
        relay.dial.source = Source.CLIENT
        assert relay.dial.name == NAME
        kept.let_go(SIX)
        await eventually(lambda: not six.stands)
        writer.close()
    four.close()
    six.close()


async def test_what_comes_meanwhile_is_held_on(bench: Bench) -> None:
    async with asyncio.TaskGroup() as group:
        kept = Keeping(bench.forwarder.data_plane, group)
        before = held(Owner(), kept)
        relay, _, writer = await a_relay(bench)
        relay.dial.source = Source.CLIENT
        kept.let_go(FOUR)
        after = held(Owner(), kept)
        assert not before.stands
        relay.dial.source = Source.NODE
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert after.stands
        kept.keep(FOUR, [])
        writer.close()
    before.close()
    after.close()
