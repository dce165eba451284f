"""What a closed listener has counted can be asked for, and what its clients still do counts."""

import pytest

from tests.forwarding.conftest import NAME, Bench, Serve, echo, eventually
from userproxy.forwarding.observation import data_plane
from userproxy.forwarding.observation.closed import KEPT_SECONDS, MOST, ClosedListeners
from userproxy.forwarding.observation.counters import ListenerCounters
from userproxy.model import Endpoint
from userproxy.model.reports import ALL


async def test_a_connection_that_goes_on_is_counted_with_its_listener_and_not_with_the_next_of_that_name(
    serve: Serve, bench: Bench
) -> None:
    forwarder = bench.forwarder
    address = await serve(echo)
    bench.route_to(address)
    reader, writer = await bench.connect()
    writer.write(b"x" * 10)
    await reader.readexactly(10)
    (before,) = await forwarder.data_plane.listeners()
    forwarder.close(NAME)
    writer.write(b"x" * 90)
    await reader.readexactly(90)
    assert await forwarder.data_plane.listeners() == ()
    (closed,) = await forwarder.data_plane.closed_listeners()
    assert (closed.listener, closed.number) == (NAME, before.number)
    assert (closed.active, closed.total, closed.bytes_up, closed.bytes_down) == (1, 1, 100, 100)
    assert [(each.endpoint, each.usable, each.active) for each in closed.endpoints] == [(Endpoint(*address), False, 1)]
    forwarder.open(NAME)
    (again,) = await forwarder.data_plane.listeners()
    assert again.number != before.number
    assert again.total == 0
    writer.close()
    await eventually(lambda: forwarder.active == 0)
    (over,) = await forwarder.data_plane.closed_listeners()
    assert (over.active, over.ended, over.endpoints) == (0, 1, ())


async def test_a_listener_that_is_closed_while_figures_are_read_is_told_of_once(
    serve: Serve, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwarder = bench.forwarder
    bench.route_to(await serve(echo))
    port = forwarder._listeners[NAME].port
    forwarder._listeners[NAME].statistics.refused = 1

    class Closing:
        """Between two slices the listener is closed."""

        async def keep(self) -> None:
            if forwarder.is_open(NAME):
                forwarder.close(NAME)

    monkeypatch.setattr(data_plane, "Pace", Closing)
    ((figures, is_open),) = await forwarder.data_plane.every_listener(ALL)
    assert (figures.local_port, figures.refused, is_open) == (port, 1, True)
    ((figures, is_open),) = await forwarder.data_plane.every_listener(ALL)
    assert (figures.refused, is_open) == (1, False)


def used() -> ListenerCounters:
    counters = ListenerCounters()
    counters.accepted = 1
    return counters


def test_those_without_clients_are_forgotten_after_some_minutes() -> None:
    now = 0.0
    closed = ClosedListeners(lambda: now)
    first, second = used(), used()
    second.active = 1
    closed.add(NAME, first)
    closed.add(NAME, second)
    now = KEPT_SECONDS - 1
    assert closed.current() == [(NAME, first), (NAME, second)]
    now = KEPT_SECONDS
    assert closed.current() == [(NAME, second)]
    second.active = 0
    now += KEPT_SECONDS
    assert closed.current() == []


def test_of_many_the_last_are_kept() -> None:
    closed = ClosedListeners(lambda: 0.0)
    every = [used() for _ in range(MOST + 3)]
    for each in every:
        closed.add(NAME, each)
        closed.add(NAME, ListenerCounters())  # there is nothing to be known of it
    assert [counters for _, counters in closed.current()] == every[3:]
