"""Portals that are UDP listeners themselves, of which each data process has clients: real ones, on loopback."""

import asyncio
import errno
import os
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from pathlib import Path
from random import Random
from socket import SocketType
from typing import NoReturn

import pytest
from msgspec import structs

from tests.forwarding.conftest import eventually
from tests.processes.control.test_briefing import CLIENTS, ask_all, echoes, owners
from tests.processes.control.test_briefing import clients as clients_at
from tests.processes.control.test_forwarding import OPTIONS, UDP_NAME, all_ready, forwarding, heard, pids
from tests.processes.control.test_orphans import kill
from tests.processes.control.test_taking import Tells, told
from tests.processes.takeover.conftest import Plane
from tests.processes.takeover.planes import NUMBERS, predecessor, successor
from userproxy.errors import PortUnavailableError
from userproxy.forwarding.udp.groups import group
from userproxy.forwarding.udp.groups.group import DatagramGroup
from userproxy.forwarding.udp.groups.spreading import member_of
from userproxy.model import (
    Admission,
    AdmissionRule,
    Endpoint,
    IPFamily,
    PortalAddress,
    Protocol,
    Snapshot,
    TrafficClass,
    Verdict,
)
from userproxy.processes.control import held_portals
from userproxy.processes.control.forwarding import ProcessForwarder
from userproxy.processes.control.held_portals import HeldPortal, HeldPortals
from userproxy.processes.control.spawning import Spawning
from userproxy.processes.control.worker import Worker
from userproxy.processes.messages import AdoptPortal, Logging, ToData

LOCAL = structs.replace(OPTIONS, bind_portals=True)
EVERYBODY = Admission((AdmissionRule("", UDP_NAME),), (AdmissionRule("", UDP_NAME),))


@pytest.fixture
def portal() -> PortalAddress:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return PortalAddress("127.0.0.1", Protocol.UDP, probe.getsockname()[1])


@asynccontextmanager
async def serving(
    portal: PortalAddress, endpoints: tuple[Endpoint, ...], processes: int = 2
) -> AsyncIterator[ProcessForwarder]:
    async with forwarding(processes, LOCAL) as forwarder:
        assert forwarder.open(UDP_NAME, verdict=Verdict.SERVE) == 0
        forwarder.update(Snapshot(UDP_NAME, Verdict.SERVE, endpoints))
        forwarder.serve_portal(portal, EVERYBODY)
        await all_ready(forwarder)
        await heard(forwarder)
        yield forwarder


def held(forwarder: ProcessForwarder) -> HeldPortal:
    (found,) = forwarder._portals.portals.values()
    return found


def wanted(several: list[socket.socket], processes: int = 2) -> Counter[int]:
    return Counter(member_of(each.getsockname(), processes) for each in several)


@pytest.mark.parametrize("processes", [1, 2, 3])
async def test_all_processes_have_clients_of_one_portal_and_each_client_keeps_to_one(
    portal: PortalAddress, processes: int
) -> None:
    async with echoes() as endpoints, serving(portal, endpoints, processes) as forwarder:
        with clients_at(portal.port) as several:
            first = await ask_all(several)
            for _ in range(3):
                assert await ask_all(several) == first, "no flow moves"
            assert await owners(forwarder) == wanted(several, processes)
            assert len(await owners(forwarder)) == processes


async def test_a_successor_has_all_clients_at_both_processes_whatever_becomes_of_its_predecessor(
    portal: PortalAddress,
) -> None:
    async with echoes() as endpoints, serving(portal, endpoints) as older:
        with clients_at(portal.port) as several:
            await ask_all(several)
            assert len(await owners(older)) == 2
            async with serving(portal, endpoints) as newer:
                first = await ask_all(several)
                assert await owners(newer) == wanted(several)
                for pid in pids(older):
                    os.kill(pid, signal.SIGSTOP)
                assert await ask_all(several) == first, "it reads nothing"
                for pid in pids(older):
                    os.kill(pid, signal.SIGKILL)
                assert await ask_all(several) == first
                older.leave_portal(portal)
                assert await ask_all(several) == first
                assert await owners(newer) == wanted(several)


async def test_killed_one_costs_its_own_flows(portal: PortalAddress) -> None:
    async with echoes() as endpoints, serving(portal, endpoints) as forwarder:
        with clients_at(portal.port) as several:
            first = await ask_all(several)
            victim = pids(forwarder)[0]
            os.kill(victim, signal.SIGKILL)
            again = await ask_all(several)
            assert victim not in pids(forwarder)
            mine = [number for number, each in enumerate(several) if member_of(each.getsockname(), 2) == 1]
            assert [again[number] for number in mine] == [first[number] for number in mine]
            assert (await owners(forwarder))[1] == len(mine)


async def test_clients_of_a_process_that_cannot_be_kept_alive_are_the_other_s_and_its_own_flows_stay(
    portal: PortalAddress,
) -> None:
    async with echoes() as endpoints, serving(portal, endpoints) as forwarder:
        survivor = pids(forwarder)[1]
        with clients_at(portal.port) as several:
            first = await ask_all(several)
            before = {each.id for each in (await forwarder.data_plane.connections()).items if each.id // 10**12 == 1}
            while not forwarder._pool.failing:
                await all_ready(forwarder)
                assert held(forwarder).readers == (1, 2)
                for pid in set(pids(forwarder)) - {survivor}:
                    os.kill(pid, signal.SIGKILL)
                    await eventually(lambda pid=pid: pid not in pids(forwarder))  # type: ignore[misc]
            assert held(forwarder).readers == (2, 2)
            again = await ask_all(several)
            mine = [number for number, each in enumerate(several) if member_of(each.getsockname(), 2) == 1]
            assert [again[number] for number in mine] == [first[number] for number in mine]
            after = {each.id for each in (await forwarder.data_plane.connections()).items}
            assert before < after
            assert len(after) == CLIENTS


async def test_with_affinity_it_is_one_process_s_and_without_again_all_have_clients(portal: PortalAddress) -> None:
    # All clients stay: one with the port of an earlier one would go on with that one's flow.
    async with echoes() as endpoints, serving(portal, endpoints) as forwarder:
        stack = ExitStack()
        for timeout, processes, answers in ((100, 1, 1), (None, 2, 2), (100, 1, 1)):
            forwarder.update(Snapshot(UDP_NAME, Verdict.SERVE, endpoints, affinity_timeout=timeout))
            await heard(forwarder)
            several = stack.enter_context(clients_at(portal.port))
            assert len(set(await ask_all(several))) == answers
            ports = {each.getsockname()[1] for each in several}
            listed = (await forwarder.data_plane.connections()).items
            of = {each.id // 10**12 for each in listed if each.client.port in ports}
            assert len(of) == processes
        stack.close()


async def test_who_is_let_in_changes_for_all_sockets_and_no_flow_ends(portal: PortalAddress) -> None:
    async with echoes() as endpoints, serving(portal, endpoints) as forwarder:
        with clients_at(portal.port) as several:
            first = await ask_all(several)
            some = Admission((AdmissionRule("127.0.0.0/8", UDP_NAME),), EVERYBODY.others)
            forwarder.serve_portal(portal, some)
            await heard(forwarder)
            assert await ask_all(several) == first
            nobody = Admission((AdmissionRule("10.0.0.0/8", UDP_NAME),), EVERYBODY.others)
            forwarder.serve_portal(portal, nobody)
            for each in several:
                each.send(b"x")
            forwarder.serve_portal(portal, some)
            assert await ask_all(several) == first
            (figures,) = await forwarder.data_plane.listeners()
            assert figures.datagrams is not None
            assert (figures.total, figures.datagrams.datagrams_up) == (CLIENTS, 3 * CLIENTS)


def test_where_descriptors_run_short_a_portal_is_not_opened_and_none_is_lost(portal: PortalAddress) -> None:
    left = 1

    def take() -> None:
        nonlocal left
        if not left:
            raise PortUnavailableError("no descriptors are left")
        left -= 1

    def give() -> None:
        nonlocal left
        left += 1

    width = 2
    portals = HeldPortals(take, give, lambda _: None, lambda: width)
    with pytest.raises(PortUnavailableError):
        portals.serve(portal, EVERYBODY)
    assert (left, portals.further) == (1, 0)
    width = 1
    found, is_new = portals.serve(portal, EVERYBODY)
    assert (len(found.sockets), is_new, left) == (1, True, 0)
    portals.leave(portal)
    left, width = 3, 3
    assert len(portals.serve(portal, EVERYBODY)[0].sockets) == 3
    assert (left, portals.further) == (0, 2)
    portals.close(Protocol.UDP)
    assert (left, portals.further) == (3, 0)


def test_a_kernel_that_lets_nobody_have_a_group_of_its_own_costs_no_descriptors(
    portal: PortalAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(group, "open_apart", refuse)
    taken: list[None] = []
    portals = HeldPortals(lambda: taken.append(None), lambda: taken.pop() or None, lambda _: None, lambda: 4)
    assert len(portals.serve(portal, EVERYBODY)[0].sockets) == len(taken) == 1
    portals.leave(portal)
    assert not taken


def test_a_portal_for_nobody_has_one_socket(portal: PortalAddress) -> None:
    portals = HeldPortals(lambda: None, lambda: None, lambda _: None, lambda: 3)
    assert len(portals.serve(portal, Admission((), ()))[0].sockets) == 1
    assert len(portals.serve(portal, EVERYBODY)[0].sockets) == 3
    portals.close(Protocol.UDP)


def test_portals_are_found_by_listeners_whose_clients_come_there(portal: PortalAddress) -> None:
    portals = HeldPortals(lambda: None, lambda: None, lambda _: None, lambda: 1)
    internal = structs.replace(UDP_NAME, traffic=TrafficClass.EXTERNAL)
    found = portals.serve(portal, EVERYBODY)[0]
    assert (portals.of(UDP_NAME), portals.of(internal)) == ([found], [])
    portals.serve(portal, Admission(EVERYBODY.others, (AdmissionRule("", internal),)))
    assert (portals.of(UDP_NAME), portals.of(internal)) == ([found], [found])
    portals.serve(portal, EVERYBODY)
    assert (portals.of(UDP_NAME), portals.of(internal)) == ([found], [])
    portals.leave(portal)
    assert portals.of(UDP_NAME) == []
    found = portals.serve(portal, EVERYBODY)[0]
    assert portals.of(UDP_NAME) == [found]
    portals.close(Protocol.UDP)


async def test_another_affinity_of_a_service_looks_at_no_other_s_portals(portal: PortalAddress) -> None:
    class Portals(dict[PortalAddress, HeldPortal]):
        def values(self) -> NoReturn:
            raise AssertionError("all portals are looked at")

    async with echoes() as endpoints, serving(portal, endpoints) as forwarder:
        forwarder._portals.portals = Portals(forwarder._portals.portals)
        forwarder.update(Snapshot(UDP_NAME, Verdict.SERVE, endpoints, affinity_timeout=100))
        await heard(forwarder)
        forwarder._portals.portals = dict(forwarder._portals.portals)
        assert len(set(held(forwarder).readers or ())) == 1


async def test_each_process_is_told_of_a_new_portal_once(
    portal: PortalAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_of: list[tuple[int, PortalAddress]] = []
    send = Worker.send

    def note(worker: Worker, message: ToData, descriptors: Sequence[int] = ()) -> None:
        if isinstance(message, AdoptPortal):
            told_of.append((worker.place, message.address))
        send(worker, message, descriptors)

    monkeypatch.setattr(Worker, "send", note)
    async with echoes() as endpoints, serving(portal, endpoints) as forwarder:
        assert sorted(told_of) == [(1, portal), (2, portal)]
        another = PortalAddress("127.0.0.2", Protocol.UDP, portal.port)
        told_of.clear()
        forwarder.serve_portal(another, EVERYBODY)
        await heard(forwarder)
        assert sorted(told_of) == [(1, another), (2, another)]


def open_at(plane: Plane, portal: PortalAddress, endpoints: tuple[Endpoint, ...]) -> None:
    plane.open(UDP_NAME, verdict=Verdict.SERVE)
    plane.update(Snapshot(UDP_NAME, Verdict.SERVE, endpoints))
    plane.serve_portal(portal, EVERYBODY)


@pytest.mark.parametrize(("before", "after"), [*NUMBERS, (1, 2), (2, 3)])
async def test_in_a_take_over_no_flow_moves_and_no_datagram_is_lost(
    portal: PortalAddress, before: int, after: int
) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Tells, local_addr=("127.0.0.1", 0))
    endpoints = (Endpoint("127.0.0.1", transport.get_extra_info("sockname")[1]),)
    async with predecessor(before, LOCAL) as plane:
        open_at(plane, portal, endpoints)
        with clients_at(portal.port) as several:
            seen = [(await told(client)).split()[0] for client in several]

            def send_all() -> None:
                """Nobody reads any socket now."""
                for number, client in enumerate(several):
                    client.send(b"%d" % number)

            async with successor(plane, after, LOCAL, serves=send_all) as beside:
                for number, client in enumerate(several):
                    async with asyncio.timeout(20):
                        assert (await loop.sock_recv(client, 100)).split() == [seen[number], b"%d" % number]
                assert [(await told(client)).split()[0] for client in several] == seen
                listed = (await beside.ask(lambda its: its.data_plane.connections())).items
                assert len(listed) == CLIENTS, "nobody has got another flow"
                if isinstance(beside.plane, ProcessForwarder):
                    workers = beside.plane._pool.serving
                    await eventually(lambda: sum(worker.pulse.flows for worker in workers) == CLIENTS)
                    assert min(worker.pulse.flows for worker in workers) >= CLIENTS // (3 * after)
    transport.close()


@asynccontextmanager
async def control(path: str, portal: PortalAddress, endpoints: tuple[Endpoint, ...]) -> AsyncIterator[ProcessForwarder]:
    loop = asyncio.get_running_loop()
    forwarder = ProcessForwarder(loop, LOCAL, Random(1), 2, Spawning("asyncio", Logging(0, "text")), path)
    forwarder.outlive(us=True)
    try:
        open_at(forwarder, portal, endpoints)
        yield forwarder
    finally:
        forwarder.shut_down()


def inodes(forwarder: ProcessForwarder) -> list[int]:
    return [os.fstat(each).st_ino for each in held(forwarder).descriptors]


async def test_the_next_control_process_goes_on_with_the_sockets_of_one_that_was_killed(
    portal: PortalAddress, tmp_path: Path
) -> None:
    path = str(tmp_path / "admin.sock")
    async with echoes() as endpoints, control(path, portal, endpoints) as first:
        await all_ready(first)
        await heard(first)
        with clients_at(portal.port) as several:
            answers = await ask_all(several)
            flows = {each.id for each in (await first.data_plane.connections()).items}
            before = inodes(first)
            first._portals.forsake()
            await kill(first, path)
            assert await ask_all(several) == answers, "nobody is there but data processes"
            async with control(path, portal, endpoints) as second:
                second.close_unasked(UDP_NAME.family)
                assert inodes(second) == before
                assert await ask_all(several) == answers
                assert {each.id for each in (await second.data_plane.connections()).items} == flows
                assert held(second).readers == (1, 2)


def test_sockets_that_were_left_are_used_if_none_is_missing_and_let_in_who_is_to_be(portal: PortalAddress) -> None:
    left = DatagramGroup.open_at_portal(portal.ip, portal.port, None, 2)
    portals = HeldPortals(lambda: None, lambda: None, lambda _: None, lambda: 3)
    with closing(left), clients_at(portal.port, 1) as (client,):
        for each in left.members[:1]:
            portals.inherit(portal, 2, os.dup(each.fileno()))
        found = portals.serve(portal, EVERYBODY)[0]
        assert len(found.sockets) == 3
        assert not {*map(inode, found.members)} & {*map(inode, left.members)}
        portals.leave(portal)
        for each in left.members:
            portals.inherit(portal, 2, os.dup(each.fileno()))
        nobody = (AdmissionRule("10.0.0.0/8", UDP_NAME),)
        found = portals.serve(portal, Admission(nobody, nobody))[0]
        assert [*map(inode, found.members)] == [*map(inode, left.members)]
        client.send(b"x")
        assert takes(found) == []
        portals.serve(portal, EVERYBODY)
        client.send(b"x")
        assert takes(found) == [b"x"]
        portals.leave(portal)
        for each in left.members:
            portals.inherit(portal, 2, os.dup(each.fileno()))
        portals.leave_unasked(UDP_NAME.family)
        assert len(portals.serve(portal, EVERYBODY)[0].sockets) == 3, "nobody had asked for them"
        portals.close(Protocol.UDP)


def test_sockets_that_were_left_and_take_no_program_are_not_used(
    portal: PortalAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    left = DatagramGroup.open_at_portal(portal.ip, portal.port, None, 2)
    taken: list[None] = []
    portals = HeldPortals(lambda: taken.append(None), lambda: taken.pop() or None, lambda _: None, lambda: 3)
    nobody = (AdmissionRule("10.0.0.0/8", UDP_NAME),)
    with closing(left):
        for each in left.members:
            portals.inherit(portal, 2, os.dup(each.fileno()))
        monkeypatch.setattr(held_portals, "attach", refuse)
        found = portals.serve(portal, Admission(nobody, nobody))[0]
        assert len(found.sockets) == len(taken) == 3
        assert not {*map(inode, found.members)} & {*map(inode, left.members)}
        portals.close(Protocol.UDP)
        assert not taken


def test_sockets_that_were_left_are_closed_with_all_others(portal: PortalAddress) -> None:
    left = DatagramGroup.open_at_portal(portal.ip, portal.port, None, 2)
    portals = HeldPortals(lambda: None, lambda: None, lambda _: None, lambda: 2)
    with closing(left):
        for end in (portals.forsake, lambda: portals.close(Protocol.UDP)):
            copies = [os.dup(each.fileno()) for each in left.members]
            for each in copies:
                portals.inherit(portal, 2, each)
            end()
            for each in copies:
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.fstat(each)


def inode(sock: SocketType) -> int:
    return os.fstat(sock.fileno()).st_ino


def takes(found: HeldPortal) -> list[bytes]:
    taken = []
    for each in found.members:
        with suppress(BlockingIOError):
            taken.append(each.recv(10))
    return taken


@pytest.mark.parametrize(("family", "takes_on"), [(IPFamily.IPV4, True), (IPFamily.IPV6, False)])
def test_over_ipv6_it_stands_aside_for_another_process(family: IPFamily, *, takes_on: bool) -> None:
    portal = PortalAddress("::1", Protocol.UDP, 5354)
    older, newer = (HeldPortals(lambda: None, lambda: None, lambda _: None, lambda: 2) for _ in range(2))
    found, other = (each.serve(portal, EVERYBODY)[0] for each in (older, newer))
    older.stand_aside(family)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", (portal.ip, portal.port))
    assert (takes(found), takes(other)) == (([b"x"], []) if takes_on else ([], [b"x"]))
    for each in (older, newer):
        each.close(Protocol.UDP)
