"""Keep-alive is switched on for every connection that lasts, and for none that does not."""

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.forwarding.clocked import ClockedLoop
from tests.forwarding.conftest import NAME, Bench, Serve, echo, eventually
from userproxy.forwarding.observation.recorder import Recorder
from userproxy.forwarding.tcp import connections
from userproxy.forwarding.tcp.connections import Connections
from userproxy.forwarding.tcp.keep_alive import SECONDS, KeepAlive
from userproxy.forwarding.tcp.listener import TcpListener
from userproxy.forwarding.tcp.relay import Relay


class Lasting:
    """A connection that notes when keep-alive is switched on."""

    def __init__(self, number: int, now: list[int]) -> None:
        self.number = number
        self.closed = False
        self._now = now

    def keep_alive(self) -> None:
        self._now.append(self.number)


class Some:
    """The connections of a listener, oldest first."""

    def __init__(self) -> None:
        self.is_looked_after = False
        self.members: list[Lasting] = []

    def __len__(self) -> int:
        return len(self.members)

    def established(self, after: int, last: int) -> list[Lasting]:
        return [each for each in self.members if after < each.number <= last]


class Scene:
    """Connections that come one after the other on a loop whose time the test sets."""

    def __init__(self) -> None:
        self.loop = ClockedLoop()
        self.recorder = Recorder(self.loop.time)
        self.keep_alive = KeepAlive(self.loop, self.recorder)
        self.connections = Some()
        self.on: list[int] = []

    def come(self, count: int = 1) -> None:
        for _ in range(count):
            self.recorder.last_id += 1
            self.connections.members.append(Lasting(self.recorder.last_id, self.on))
        if not self.connections.is_looked_after:
            self.keep_alive.look_after(self.connections)


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    with closing(scene.loop):
        yield scene
        scene.keep_alive.shut_down()


def test_a_connection_has_it_between_one_and_two_times_the_age_and_once(scene: Scene) -> None:
    scene.come()
    scene.loop.advance(SECONDS / 2)
    scene.come()
    scene.loop.advance(SECONDS)
    assert scene.on == []
    scene.loop.advance(SECONDS / 2)
    assert sorted(scene.on) == [1, 2]
    scene.come()
    scene.loop.advance(3 * SECONDS)
    assert sorted(scene.on) == [1, 2, 3]


def test_many_are_dealt_with_in_slices_and_those_that_have_ended_meanwhile_not(scene: Scene) -> None:
    scene.come(1000)
    scene.loop.advance(SECONDS)
    scene.loop.now += SECONDS
    scene.keep_alive._look()
    assert len(scene.on) < 1000
    scene.connections.members[-1].closed = True
    scene.loop.turn()
    assert sorted(scene.on) == list(range(1, 1000))


def test_without_connections_nothing_is_looked_at_and_later_ones_have_it_all_the_same(scene: Scene) -> None:
    scene.come()
    scene.connections.members.clear()
    scene.loop.advance(SECONDS)
    assert scene.keep_alive._timer is None
    assert not scene.connections.is_looked_after
    scene.loop.advance(100.0)
    scene.come()
    scene.loop.advance(2 * SECONDS)
    assert scene.on == [2]


def relays(bench: Bench) -> list[Relay]:
    listener = bench.forwarder._listeners[NAME]
    assert isinstance(listener, TcpListener)
    return [each for each in listener.connections.members.values() if isinstance(each, Relay)]


def has_it(relay: Relay) -> bool:
    return all(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) for sock in relay.sockets)


async def test_both_legs_of_a_relay_have_it_in_the_end(bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(echo))
    _, writer = await bench.connect()
    await eventually(lambda: len(relays(bench)) == 1)
    (relay,) = relays(bench)
    assert not has_it(relay)
    bench.forwarder._tcp.keep_alive._look()
    assert not has_it(relay)
    bench.forwarder._tcp.keep_alive._look()
    assert has_it(relay)
    writer.close()
    await bench.eventually_idle()


async def test_a_relay_that_was_dialled_for_so_long_has_it_at_once(
    bench: Bench, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "KEEP_ALIVE_SECONDS", 0.0)
    bench.route_to(await serve(echo))
    _, writer = await bench.connect()
    await eventually(lambda: len(relays(bench)) == 1)
    assert has_it(relays(bench)[0])
    writer.close()
    await bench.eventually_idle()


async def test_relays_are_found_by_their_ids(bench: Bench, serve: Serve) -> None:
    bench.route_to(await serve(echo))
    writers = [(await bench.connect())[1] for _ in range(4)]
    await eventually(lambda: len(relays(bench)) == 4)
    listener = bench.forwarder._listeners[NAME]
    assert isinstance(listener, TcpListener)
    owner: Connections = listener.connections
    first, second, third, fourth = owner.members
    assert [each.id for each in owner.established(first, third)] == [third, second]
    assert [each.id for each in owner.established(0, fourth)] == [fourth, third, second, first]
    for writer in writers:
        writer.close()
    await bench.eventually_idle()
