"""Whoever watches connections hears of the end of those that end with their data process."""

import asyncio
import os
import signal
from collections.abc import Iterable
from contextlib import AsyncExitStack

from tests.forwarding.conftest import NAME
from tests.processes.control.test_forwarding import all_ready, backend, clients, forwarding
from userproxy.model import Snapshot, Verdict
from userproxy.model.reports import ChangeKind, ConnectionChange, ConnectionReport, ConnectionState, SocketAddress
from userproxy.processes.control.observation.connection_watch import Roll

CLIENT = SocketAddress("10.0.0.9", 4000)


def connection(number: int, state: ConnectionState = ConnectionState.OPEN) -> ConnectionReport:
    return ConnectionReport(number, NAME, CLIENT, None, None, state, 0.0, 0.0, 0.0, 0.0)


def added(*numbers: int) -> list[ConnectionChange]:
    return [ConnectionChange(ChangeKind.ADDED, connection(number)) for number in numbers]


def removed(*numbers: int) -> list[ConnectionChange]:
    return [ConnectionChange(ChangeKind.REMOVED, connection(number)) for number in numbers]


def ids(changes: Iterable[ConnectionChange]) -> list[int]:
    assert all(change.kind is ChangeKind.REMOVED for change in changes)
    return sorted(change.connection.id for change in changes)


def test_those_that_are_left_end() -> None:
    roll = Roll()
    roll.note(added(1, 2, 3))
    roll.note(removed(2))
    assert ids(roll.end()) == [1, 3]
    assert roll.end() == []


def test_what_was_there_before_ends_too_but_for_what_has_ended_while_it_was_listed() -> None:
    roll = Roll()
    roll.note([*added(5), *removed(1, 5)])
    roll.listed([connection(1), connection(2), connection(5), connection(6)])
    roll.note(removed(6))
    assert ids(roll.end()) == [2]


def test_what_was_told_later_than_it_was_listed_counts() -> None:
    roll = Roll()
    roll.note([ConnectionChange(ChangeKind.MODIFIED, connection(1, ConnectionState.HALF_CLOSED))])
    roll.listed([connection(1)])
    assert [each.connection.state for each in roll.end()] == [ConnectionState.HALF_CLOSED]


async def test_the_connections_of_a_killed_process_are_told_of_as_removed_old_and_new_ones() -> None:
    async with forwarding() as forwarder, backend() as endpoint:
        port = forwarder.open(NAME, verdict=Verdict.SERVE)
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (endpoint,)))
        await all_ready(forwarder)
        async with clients(port, 10), forwarder.data_plane.watch_connections() as watch, AsyncExitStack() as stack:
            await stack.enter_async_context(clients(port, 10))
            reports = (await forwarder.data_plane.connections()).items
            new: set[int] = set()
            gone: set[int] = set()
            async with asyncio.timeout(10):
                while len(new) < 10:
                    new |= {each.connection.id for each in (await watch.read()).items}
                os.kill(forwarder._pool.serving[0].pid, signal.SIGKILL)
                theirs = {each.id for each in reports if each.id < 10**12}
                assert 0 < len(theirs) < 20
                while gone < theirs:
                    changes = (await watch.read()).items
                    gone |= {each.connection.id for each in changes if each.kind is ChangeKind.REMOVED}
            assert gone == theirs
