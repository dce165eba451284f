"""Limits of a Service's clients, as these find them: real connections over a forwarder of one process."""

import asyncio
import socket
import struct

import pytest
from msgspec import structs

from tests.forwarding.conftest import LOOPBACK, NAME, Serve, eventually
from tests.forwarding.handover.conftest import taken_over
from tests.forwarding.limits.bench import Client, answered, clients, limited, turns
from userproxy.forwarding.tcp.listener import TcpListener
from userproxy.model import Limits, Overflow

REFUSE = Overflow.REFUSE


async def test_those_beyond_wait_in_the_kernel_s_queue_and_come_in_as_others_leave(serve: Serve) -> None:
    async with limited(serve, Limits(connections=3)) as bench, clients(bench.port, 8) as several:
        await answered(several, 3)
        await turns()
        assert bench.forwarder.active == 3
        (figures,) = await bench.forwarder.data_plane.listeners()
        assert (figures.waiting, figures.queued) == (0, 5)
        for number in range(5):
            several[number].close()
            assert await several[number + 3].answer() == b"x", "in the order in which they came"
            assert bench.forwarder.active == 3
        (figures,) = await bench.forwarder.data_plane.listeners()
        assert (figures.total, figures.refused, figures.limited, figures.queued) == (8, 0, 0, 0)


async def test_those_beyond_are_refused_where_that_is_asked_for(serve: Serve) -> None:
    async with limited(serve, Limits(2, REFUSE)) as bench, clients(bench.port, 2) as several:
        await answered(several, 2)
        for _ in range(3):
            with pytest.raises(ConnectionResetError):
                await Client(bench.port).answer()
        assert await bench.reasons() == ["there are 2 connections, as many as userproxy.io/max-connections allows"] * 3
        (figures,) = await bench.forwarder.data_plane.listeners()
        assert (figures.total, figures.refused, figures.limited, figures.active) == (2, 3, 3, 2)
        several[0].close()
        await eventually(lambda: bench.forwarder.active == 1)
        async with clients(bench.port, 1) as (another,):
            assert await another.answer() == b"x"


async def test_who_has_waited_for_too_long_is_refused_and_others_wait_on(serve: Serve) -> None:
    async with limited(serve, Limits(connections=1), queue_timeout=2.0) as bench, clients(bench.port, 1) as (first,):
        assert await first.answer() == b"x"
        async with clients(bench.port, 3) as several:
            for each in several:
                with pytest.raises(ConnectionResetError):
                    await each.answer()
            (reason,) = set(await bench.reasons())
            assert reason.startswith("it has waited for 2 s: there are 1 connections")
            async with clients(bench.port, 1) as (later,):
                first.close()
                assert await later.answer() == b"x"
        (figures,) = await bench.forwarder.data_plane.listeners()
        assert (figures.total, figures.limited) == (2, 3)


async def test_only_so_many_a_second_come_in(serve: Serve) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with limited(serve, Limits(rate=10.0)) as bench, clients(bench.port, 15) as several:
        await answered(several, 15)
        assert loop.time() - began >= 0.5 - 0.01, "ten at once, and five after that"
        (figures,) = await bench.forwarder.data_plane.listeners()
        assert (figures.total, figures.limited) == (15, 0)


async def test_who_waits_for_a_connection_to_end_may_have_to_wait_for_the_rate_then(serve: Serve) -> None:
    async with limited(serve, Limits(connections=1, rate=2.0)) as bench, clients(bench.port, 5) as several:
        for each in several:  # the first two come in at once, as far as the rate goes
            assert await each.answer() == b"x"
            each.close()


async def test_those_who_come_too_fast_are_refused_where_that_is_asked_for(serve: Serve) -> None:
    async with limited(serve, Limits(rate=1 / 60, overflow=REFUSE)) as bench, clients(bench.port, 1) as (first,):
        assert await first.answer() == b"x"
        with pytest.raises(ConnectionResetError):
            await Client(bench.port).answer()
        assert await bench.reasons() == ["more clients come than userproxy.io/connection-rate allows"]


async def test_another_limit_counts_at_once_and_ends_no_connection(serve: Serve) -> None:
    async with limited(serve, None) as bench, clients(bench.port, 4) as several:
        await answered(several, 4)
        bench.limit(Limits(connections=2))
        async with clients(bench.port, 4) as later:
            await turns()
            assert bench.forwarder.active == 4
            bench.limit(Limits(connections=5))
            await answered(later, 1)
            bench.limit(Limits(connections=5, overflow=REFUSE))
            await eventually(lambda: bench.forwarder.active == 5)
            with pytest.raises(ConnectionResetError):
                await later[3].answer()
            bench.limit(Limits(connections=1))
            async with clients(bench.port, 2) as last:
                await turns()
                bench.limit(None)
                await answered(last, 2)


async def test_a_listener_that_closes_forgets_who_waits(serve: Serve) -> None:
    async with limited(serve, Limits(connections=1)) as bench, clients(bench.port, 3) as several:
        await answered(several, 1)
        bench.forwarder.close(NAME)
        with pytest.raises(ConnectionResetError):
            await several[2].answer()
        several[0].close()
        await eventually(lambda: bench.forwarder.active == 0)


async def test_a_client_that_has_gone_away_while_it_waited_holds_up_nobody(serve: Serve) -> None:
    async with limited(serve, Limits(connections=1)) as bench, clients(bench.port, 1) as (first,):
        assert await first.answer() == b"x"
        gone = socket.create_connection((LOOPBACK, bench.port), 10)
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
        async with clients(bench.port, 1) as (later,):
            first.close()
            assert await later.answer() == b"x"


async def test_who_waits_goes_on_to_wait_in_the_process_that_takes_over(serve: Serve) -> None:
    """In the kernel's queue, and at the head of it, accepted; connections that were taken over count."""
    async with limited(serve, Limits(connections=2)) as bench, clients(bench.port, 2) as several:
        await answered(several, 2)
        async with clients(bench.port, 1) as early, clients(bench.port, 2) as later:
            (listener,) = bench.forwarder._listeners.values()
            assert isinstance(listener, TcpListener)
            await turns()  # the listener has heard of them, and asked the gate
            listener._hold_next()
            (figures,) = await bench.forwarder.data_plane.listeners()
            assert (figures.waiting, figures.queued) == (1, 2)
            new = await taken_over(bench.forwarder)
            try:
                assert new.active == 2
                await turns()
                assert not any(each.is_answered for each in (*early, *later))
                for leaving, coming in zip((*several, *early), (*early, *later), strict=True):
                    leaving.close()
                    assert await coming.answer() == b"x"
            finally:
                new.shut_down()


async def test_a_queue_full_of_clients_who_have_waited_for_too_long_is_refused_in_turns(serve: Serve) -> None:
    """Thousands whose time is over at once took a tenth of a second, in which nobody was served."""
    count = TcpListener.accepts_per_turn + 20
    async with limited(serve, Limits(connections=1)) as bench, clients(bench.port, 1) as (first,):
        assert await first.answer() == b"x"
        async with clients(bench.port, count) as several:
            listener = bench.forwarder._listeners[NAME]
            assert isinstance(listener, TcpListener)
            assert listener.expire_waiting(-1.0, "it has waited") == 0.0
            assert listener.statistics.limited == TcpListener.accepts_per_turn
            assert listener.expire_waiting(-1.0, "it has waited") is None
            for each in several:
                with pytest.raises(ConnectionResetError):
                    await each.answer()
        assert listener.statistics.limited == count


async def test_who_has_handed_over_still_answers_where_clients_wait_in_the_queue(serve: Serve) -> None:
    async with limited(serve, Limits(connections=1)) as bench, clients(bench.port, 3) as several:
        await answered(several, 1)
        await turns()
        (before,) = await bench.forwarder.data_plane.listeners()
        assert before.queued == 2
        bench.forwarder.forsake()
        (after,) = await bench.forwarder.data_plane.listeners()
        assert after == structs.replace(before, queued=0), "its copy of the queue is closed"
