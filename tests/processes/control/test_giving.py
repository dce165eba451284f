"""Take-overs from and to data processes that fail: at each message, and by each process. The predecessor serves on."""

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing

import pytest
from msgspec import Raw, structs
from msgspec.msgpack import decode

from tests.forwarding.conftest import LOOPBACK, NAME, eventually
from tests.forwarding.handover.test_listeners import DNS
from tests.processes.control.test_briefing import echoes
from tests.processes.control.test_forwarding import Client, asked, backend
from tests.processes.takeover.conftest import Beside, Middle, Packet, Plane, hand_over
from tests.processes.takeover.planes import (
    CLIENTS,
    NONE_LEFT,
    all_are_served,
    attempt,
    eventually_counted,
    figures,
    limit_descriptors,
    making,
    pids,
    predecessor,
    served,
    successor,
)
from userproxy.forwarding.forwarder import Forwarder
from userproxy.forwarding.handover.values import Item, RelayHandedOver
from userproxy.model import Endpoint, Snapshot, Verdict
from userproxy.pace import UnhurriedPace
from userproxy.processes.channel import encode, socket_pair
from userproxy.processes.control.forwarding import ProcessForwarder
from userproxy.processes.takeover import predecessor as of_predecessor
from userproxy.processes.takeover import successor as of_successor
from userproxy.processes.takeover.messages import Ask, Serving
from userproxy.processes.takeover.packages import Package
from userproxy.processes.takeover.token import Token
from userproxy.processes.transfers import AllGiven, Given

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_predecessor, "ANSWER_SECONDS", 5.0)
    monkeypatch.setattr(of_successor, "_SILENCE_SECONDS", 5.0)


def cut(_packet: Packet) -> Packet | None:
    return None


def garbage(packet: Packet) -> Packet | None:
    return b"\0\xc1 this is no message", packet[1]


def without_descriptors(packet: Packet) -> Packet | None:
    return packet[0], []


@pytest.mark.parametrize(
    ("before", "after", "fault"), [(2, 0, cut), (2, 0, garbage), (2, 0, without_descriptors), (0, 1, cut)]
)
async def test_whatever_fails_at_whichever_message_the_predecessor_serves_on(
    before: int, after: int, fault: Callable[[Packet], Packet | None]
) -> None:
    async with served(before) as (plane, port, found):
        for number in range(40):
            was_told = threading.Event()

            def meddle(count: int, to_successor: bool, packet: Packet, at: int = number) -> Packet | None:
                if not to_successor and packet[0][1:] == encode(Serving()):
                    was_told.set()  # noqa: B023 -- it is this attempt's
                    return packet
                return fault(packet) if count == at else packet

            beside = await attempt(plane, after, meddle)
            assert was_told.is_set() is (beside is not None)
            await all_are_served(port, found)
            if beside is not None and number > 8:
                break
            assert beside is None or fault is without_descriptors, "the message went without a fault"
            if beside is not None:
                break
        assert beside is not None, "in the end there are no more messages that could fail"
        await asyncio.to_thread(beside.end)


@pytest.mark.parametrize("number", [2, 5, 8])
async def test_a_data_process_of_the_predecessor_that_dies_costs_its_own_clients_alone(number: int) -> None:
    async with served(2) as (plane, port, found):
        victim = pids(plane)[1]
        ids = [report.id for report in (await plane.data_plane.connections()).items]
        cut_off = sum(each > 10**12 for each in ids)

        def meddle(count: int, _to_successor: bool, packet: Packet) -> Packet:
            if count == number:
                os.kill(victim, signal.SIGKILL)
                time.sleep(0.05)  # so that it is dead by the next message
            return packet

        assert await attempt(plane, 0, meddle) is None
        assert await asked(port) == b"hello\n"
        alive = [client for client in found if await is_answered(client)]
        assert len(alive) == CLIENTS - cut_off
        await eventually(lambda: len(pids(plane)) == 2)
        beside = await attempt(plane, 1, lambda _, __, packet: packet)
        assert beside is not None
        await all_are_served(port, alive)
        await asyncio.to_thread(beside.end)


class Flow:
    """A UDP client of the listener DNS of `plane`, which has two `ends`, of which it is served by the first."""

    def __init__(self, plane: Plane, ends: tuple[Endpoint, ...]) -> None:
        self.ends = ends
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.connect((LOOPBACK, plane.open(DNS, verdict=Verdict.SERVE)))
        plane.update(Snapshot(DNS, Verdict.SERVE, ends[:1]))

    async def end(self) -> Endpoint:
        """By which of them it is answered, within ten seconds."""
        self.socket.send(b"x")
        async with asyncio.timeout(10):
            answer = await asyncio.get_running_loop().sock_recv(self.socket, 100)
        return self.ends[int(answer.split()[0])]


async def known(plane: Plane) -> tuple[Endpoint, ...]:
    """The endpoints of the listener NAME, as whoever gives it to data processes knows them."""
    found = plane._snapshots[NAME] if isinstance(plane, Forwarder) else plane._listeners[NAME].snapshot
    assert found is not None
    return found.endpoints


@pytest.mark.parametrize(("before", "after", "step"), [(0, 2, 4), (2, 0, 2), (2, 2, 4)])
async def test_endpoints_that_change_at_whichever_message_are_those_of_the_successor(
    before: int, after: int, step: int
) -> None:
    """From the first description of listeners on, and up to the pause. Connections go on, and flows move."""
    loop = asyncio.get_running_loop()
    async with backend(b"other\n") as other, echoes() as ends:
        for number in range(3, 60, step):
            async with served(before) as (plane, port, found):
                flow = Flow(plane, ends)
                with closing(flow.socket):
                    assert await flow.end() == ends[0]
                    was_in_force: list[bool] = []

                    def change(plane: Plane = plane, found: list[bool] = was_in_force) -> None:
                        found.append(any(plane.listening()))
                        plane.update(Snapshot(NAME, Verdict.SERVE, (other,)))
                        plane.update(Snapshot(DNS, Verdict.SERVE, ends[1:]))

                    def meddle(
                        count: int, _: bool, packet: Packet, at: int = number, change: Callable[[], None] = change
                    ) -> Packet:
                        if count == at:
                            loop.call_soon_threadsafe(change)
                        return packet

                    beside = await attempt(plane, after, meddle)
                    assert beside is not None
                    try:
                        assert was_in_force, "there are no further messages"
                        assert await asked(port) == (b"other\n" if was_in_force[0] else b"hello\n")
                        assert await flow.end() == ends[was_in_force[0]], "it moves with its next datagram"
                        assert (await beside.ask(known) == (other,)) is was_in_force[0]
                        for client in found:
                            assert await client.ask() == b"hello\n"
                    finally:
                        await asyncio.to_thread(beside.end)
                if not was_in_force[0]:
                    break
        assert number > 6, "some were in force, and the last one came too late"


async def test_a_listener_that_a_stop_closes_is_told_of_no_more() -> None:
    async with predecessor(1) as plane:
        assert isinstance(plane, ProcessForwarder)
        plane.open(NAME)
        plane.update(Snapshot(NAME, Verdict.SERVE, (Endpoint(LOOPBACK, 9),)))
        giver = plane.hand_over()
        assert [package async for package in giver.first()]
        plane.update(Snapshot(NAME, Verdict.SERVE, (Endpoint(LOOPBACK, 10),)))
        await plane.drain(0.0)
        assert [package async for package in giver.changed() if package.plane == 0] == []
        giver.cancel()


async def is_answered(client: Client) -> bool:
    try:
        return await client.ask() == b"hello\n"
    except ConnectionError:
        return False


@pytest.mark.parametrize("after", [0, 2])
async def test_what_was_counted_by_a_process_that_has_died_is_handed_over(after: int) -> None:
    async with served(2) as (plane, port, found):
        assert await figures(plane) == (CLIENTS, CLIENTS)
        assert isinstance(plane, ProcessForwarder)
        serving = plane._pool.serving
        await eventually(lambda: sum(worker.pulse.connections for worker in serving) == CLIENTS)
        busiest = max(serving, key=lambda worker: worker.pulse.connections)
        os.kill(busiest.pid, signal.SIGKILL)
        await eventually(lambda: bool(plane.data_plane.past))
        alive = [client for client in found if await is_answered(client)]
        async with successor(plane, after) as beside:
            await eventually_counted(beside, (len(alive), CLIENTS))
            await all_are_served(port, alive)
            await eventually_counted(beside, (len(alive), CLIENTS + 1))


async def test_listeners_are_told_of_with_pauses_in_which_clients_have_the_cpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with predecessor(1) as plane:
        assert isinstance(plane, ProcessForwarder)
        for number in range(9):
            port = structs.replace(NAME.service_port, port=f"p{number}")
            plane.open(structs.replace(NAME, service_port=port), verdict=Verdict.REJECT)
        giver, rests = plane.hand_over(), 0
        rest = UnhurriedPace.rest

        async def note(pace: UnhurriedPace) -> None:
            nonlocal rests
            rests += 1
            await rest(pace)

        monkeypatch.setattr(UnhurriedPace, "rest", note)
        packages = [package async for package in giver.first() if package.plane == 0]
        assert rests == len(packages) == 3
        giver.cancel()


async def test_late_answers_to_an_attempt_that_was_given_up_are_not_those_to_the_next_one() -> None:
    async with served(2) as (plane, port, found):
        assert isinstance(plane, ProcessForwarder)
        serving = plane._pool.serving
        await eventually(lambda: sum(worker.pulse.connections for worker in serving) == CLIENTS)
        giver = plane.hand_over()
        for worker in serving:
            reading, writing = os.pipe()
            giver.heard(worker, Given(Raw(b"[]"), giver.attempt - 1), [reading])
            giver.heard(worker, AllGiven(giver.attempt - 1), [])
            with pytest.raises(BrokenPipeError):
                os.write(writing, b"x")
            os.close(writing)
        given = {package.plane async for package in giver.first()}
        having = {number for number, worker in enumerate(serving, 1) if worker.pulse.connections}
        assert given == {0} | having, "both tell of all they have"
        giver.cancel()
        await all_are_served(port, found)


async def test_what_clients_say_while_it_is_handed_over_is_not_left_for_the_pause() -> None:
    async with served(2) as (plane, port, found):
        assert isinstance(plane, ProcessForwarder)
        giver = plane.hand_over()
        async for _ in giver.first():
            pass
        for client in found:
            assert await client.ask() == b"hello\n"
        for expected in (CLIENTS, 0):
            told = [each async for package in giver.changed() for each in relays(package)]
            assert len(told) == expected
        assert await found[0].ask() == b"hello\n"
        with closing(Token.make()) as token:
            left = [each for package in giver.rest(token, time.monotonic() + 10) for each in relays(package)]
            assert len(left) == 1, "one has said something since"
            giver.cancel()
        await all_are_served(port, found)


def relays(package: Package) -> list[RelayHandedOver]:
    return [each for each in decode(package.items, type=list[Item]) if isinstance(each, RelayHandedOver)]


@pytest.mark.parametrize("to_do", ["kill", "stop", "leave no descriptors"])
@pytest.mark.parametrize("before", [0, 2])
async def test_a_data_process_of_the_successor_that_cannot_go_on_costs_nothing(
    before: int, to_do: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("userproxy.processes.control.taking._ARRIVED_SECONDS", 1.0)
    made: list[Plane] = []

    def make() -> Plane:
        made.append(making(2)())
        return made[0]

    def hinder(count: int, _to_successor: bool, packet: Packet) -> Packet:
        if count == 2:
            for pid in pids(made[0]):
                if to_do == "leave no descriptors":
                    limit_descriptors(pid, NONE_LEFT)
                else:
                    os.kill(pid, signal.SIGKILL if to_do == "kill" else signal.SIGSTOP)
        return packet

    async with served(before) as (plane, port, found):
        middle = Middle(hinder)
        middle.start()
        beside = Beside(middle.for_successor, make=make)
        assert not await hand_over(plane, middle.for_predecessor)
        await all_are_served(port, found)
        assert await asyncio.to_thread(beside.done.wait, 15)
        assert beside.failure is not None
        await asyncio.to_thread(beside.end)
        await all_are_served(port, found)


async def test_another_protocol_of_values_gets_listeners_alone() -> None:
    async with served(2) as (plane, port, found):
        ours, its = socket_pair()
        with closing(its):
            its.send(b"\0" + encode(Ask(1, 1, "0.0", "as in the tests")))
            assert not await hand_over(plane, ours)
        await all_are_served(port, found)
