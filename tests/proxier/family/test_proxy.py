"""One family of a running proxy: when it syncs, what it tells, and how it gives its rules up. Between fakes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from socket import socket
from typing import cast

import pytest
from msgspec import structs

from tests.proxier.conntrack.test_entries import Entry
from tests.proxier.test_following import routed, with_endpoints
from tests.proxier.test_health_checks import free_ports
from tests.proxier.test_proxier import WEB, WEB_LISTENER, Nodes, Portals, World, a_service
from userproxy.addresses import IPFamily
from userproxy.errors import KernelToolError
from userproxy.model import Node, PortalSync, ProblemKind, Protocol, ServiceState
from userproxy.portals.interface import PortalDriver
from userproxy.portals.lease import Lease
from userproxy.portals.return_path.keeper import ReturnPathKeeper
from userproxy.proxier.conntrack.entries import FlowEntry
from userproxy.proxier.family import proxy
from userproxy.proxier.family.options import FamilyOptions, OthersCleaned
from userproxy.proxier.family.proxy import FamilyProxy
from userproxy.proxier.health_checks import HealthCheckServers
from userproxy.proxier.interfaces import Conntrack
from userproxy.proxier.local_addresses import NodePortAddresses
from userproxy.routing.services import NoLocalEndpoints
from userproxy.telemetry.http_connections import ConnectionBudget

V4, V6 = IPFamily.IPV4, IPFamily.IPV6
NODE = Node("node-1", ("192.0.2.10", "2001:db8::10"), zone="a", pod_cidrs=("10.244.1.0/24", "fd00:1::/64"))
ELSEWHERE = Node("node-1", ("192.0.2.11",))
HOURS = FamilyOptions(min_sync_period=0.0, sync_period=3600.0)
ON_LOOPBACK = structs.replace(HOURS, node_ports=NodePortAddresses(("127.0.0.0/8",)))


class Changes(World):
    """A World that says what waits."""

    triggers: tuple[float, ...] = ()

    @property
    def pending(self) -> tuple[int, int]:
        return len(self.changes), 0

    def take_triggers(self) -> Sequence[float]:
        taken, self.triggers = self.triggers, ()
        return taken


class Claims:
    def __init__(self, world: World) -> None:
        self._world = world
        self.closings = 0

    def claim(self, ip: str, protocol: Protocol, port: int) -> None:
        self._world.claim(ip, protocol, port)

    def release(self, ip: str, protocol: Protocol, port: int) -> None:
        self._world.release(ip, protocol, port)

    async def taken(self, ports: Collection[tuple[str, Protocol, int]]) -> Collection[tuple[str, Protocol, int]]:
        return await self._world.taken(ports)

    def sockets(self) -> Iterator[tuple[tuple[str, Protocol, int], socket]]:
        yield from ()

    def adopt(self, ip: str, protocol: Protocol, port: int, descriptor: int) -> None:
        raise NotImplementedError

    def release_unasked(self) -> None:
        pass

    def close(self) -> None:
        self.closings += 1


class TheLease:
    """A lease that is had once `free` is set; keeps what was asked of it."""

    contended = False

    def __init__(self) -> None:
        self.free = asyncio.Event()
        self.free.set()
        self.wanted = asyncio.Event()
        self.asked: list[str] = []

    async def acquire(self) -> None:
        self.wanted.set()
        await self.free.wait()
        self.asked.append("acquire")

    def announce(self) -> None:
        self.asked.append("announce")

    def release(self) -> None:
        self.asked.append("release")


class Observer:
    """Keeps what it is told, in order."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.triggers: list[float] = []
        self.no_local = NoLocalEndpoints()

    def queued(self) -> None:
        self.told.append("queued")

    def sync_began(self) -> None:
        self.told.append("sync began")

    def synced(
        self, triggers: Iterable[float], rule_counts: Mapping[str, int], no_local: NoLocalEndpoints, *, ok: bool
    ) -> None:
        self.told.append("synced" if ok else "sync failed")
        self.triggers += triggers
        self.no_local = no_local

    def follow_began(self) -> None:
        pass

    def followed(self, triggers: Iterable[float], rule_counts: Mapping[str, int], no_local: NoLocalEndpoints) -> None:
        self.told.append("followed")
        self.triggers += triggers

    def followed_at_once(self, triggers: Iterable[float]) -> None:
        self.told.append("followed at once")
        self.triggers += triggers


async def _nothing_left(_driver: PortalDriver, _may_wait: bool) -> OthersCleaned:
    return OthersCleaned()


class Bench:
    def __init__(self, family: IPFamily = V4, options: FamilyOptions = HOURS, *, leased: bool = False) -> None:
        self.world = Changes()
        self.claims = Claims(self.world)
        self.observer = Observer()
        self.nodes = Nodes()
        self.usable = asyncio.Event()
        self.usable.set()
        self.reports = 0
        self.lease = TheLease() if leased else None
        self.driver = Portals(self.world)
        self.driver.lease = cast("Lease | None", self.lease)
        self._ip_family = family
        self._options = options
        self.family = self.proxy()

    def proxy(
        self,
        clean_up_after_others: Callable[[PortalDriver, bool], Awaitable[OthersCleaned]] = _nothing_left,
        return_path: ReturnPathKeeper | None = None,
        conntrack: Conntrack | None = None,
    ) -> FamilyProxy:
        family = self._ip_family
        return FamilyProxy(
            family,
            self._options,
            Node("node-1"),
            changes=self.world,
            forwarding=self.world,
            driver=self.driver,
            until_usable=self._until_usable,
            claims=self.claims,
            conntrack=conntrack,
            nodes=self.nodes,
            health_checks=HealthCheckServers(family, lambda: True, ConnectionBudget(8)),
            observer=self.observer,
            report=self._report,
            clean_up_after_others=clean_up_after_others,
            return_path=return_path,
        )

    async def _until_usable(self) -> None:
        await self.usable.wait()

    def _report(self) -> None:
        self.reports += 1

    def put(self, *states: ServiceState) -> None:
        self.world.put(*states)
        self.family.changed(None)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            tasks = [group.create_task(work, name=name) for name, work in self.family.tasks().items()]
            yield
            for task in tasks:
                task.cancel()
        await self.family.close()

    async def until_told(self, what: str, times: int = 1) -> None:
        while self.observer.told.count(what) < times:
            await asyncio.sleep(0.001)


async def test_nothing_is_served_before_the_source_has_said_what_there_is() -> None:
    bench = Bench()
    bench.world.put(a_service("web", "10.96.0.1"))
    async with bench.running():
        await asyncio.sleep(0)
        assert (bench.world.syncs, bench.observer.told) == (0, [])
        bench.family.changed(None)
        await bench.until_told("synced")
    assert bench.observer.told[:2] == ["queued", "sync began"]
    assert list(bench.world.open_ports) == [WEB_LISTENER]


async def test_who_waits_until_all_is_taken_in_waits_as_long_as_that_takes_and_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proxy, "_TOOLS_SECONDS", 0.05)
    bench = Bench()
    bench.usable.clear()
    await bench.family.until_taken_in()  # nobody has said what there is
    bench.world.put(*(a_service(f"s{number}", f"10.96.1.{number}") for number in range(100)))
    async with bench.running():
        bench.family.changed(None)
        await bench.family.until_taken_in()
        assert not list(bench.family.service_ports), "it cannot be served"
        monkeypatch.setattr(proxy, "_TOOLS_SECONDS", 20.0)
        asyncio.get_running_loop().call_later(0.01, bench.usable.set)
        await bench.family.until_taken_in()
        assert len(bench.family.service_ports) == 100
        assert "synced" not in bench.observer.told
        await bench.until_told("synced")
        await bench.family.until_taken_in()


@pytest.mark.parametrize("took_over", [True, False])
async def test_who_took_over_may_look_later_for_what_others_have_left(took_over: bool) -> None:
    """Its predecessor did so, and clients would wait for the thread in which it is done."""
    bench, looks = Bench(), []

    async def look(_: PortalDriver, may_wait: bool) -> OthersCleaned:
        looks.append(may_wait)
        return OthersCleaned(all_gone=not may_wait)

    bench.family = bench.proxy(look)
    if took_over:
        bench.family.took_over()
    bench.put(a_service("web", "10.96.0.1"))
    async with bench.running():
        await bench.until_told("synced")
        while not looks:
            await asyncio.sleep(0.001)
        bench.family._syncs.verify()
        await bench.until_told("synced", 2)
        await asyncio.sleep(0.01)
    assert looks == ([True, False] if took_over else [False])


async def test_the_first_news_ask_for_a_sync_though_there_is_no_service_and_later_ones_do_not() -> None:
    bench = Bench()
    async with bench.running():
        bench.family.changed(None)
        await bench.until_told("synced")
        queued = bench.observer.told.count("queued")
        bench.family.changed(None)
        assert bench.observer.told.count("queued") == queued
        bench.nodes.version += 1
        bench.family.changed(None)
        assert bench.observer.told.count("queued") == queued + 1


async def test_endpoints_alone_are_followed_without_a_sync_and_their_triggers_told() -> None:
    bench = Bench()
    async with bench.running():
        bench.world.triggers = (1.0,)
        bench.put(a_service("web", "10.96.0.1"))
        await bench.until_told("synced")
        assert bench.observer.triggers == [1.0]
        syncs, followed = bench.world.syncs, bench.observer.told.count("followed")
        bench.world.triggers = (2.0,)
        bench.put(a_service("web", "10.96.0.1", affinity_timeout=10.0))
        await bench.until_told("followed", followed + 1)
        assert (bench.world.syncs, bench.observer.triggers) == (syncs, [1.0, 2.0])


async def test_other_endpoints_of_a_service_are_in_force_when_the_source_has_told_of_them() -> None:
    bench = Bench()
    async with bench.running():
        web = a_service("web", "10.96.0.1")
        bench.put(web)
        assert not bench.world.routes, "nothing is served before a sync"
        await bench.until_told("synced")
        bench.observer.told.clear()
        bench.world.triggers = (2.0,)
        bench.put(with_endpoints(web, "10.0.0.7"))
        assert routed(bench.world) == ["10.0.0.7:8080"]
        assert (bench.observer.told, bench.observer.triggers) == (["followed at once"], [2.0])
        bench.world.triggers = (3.0,)
        bench.put(with_endpoints(web, "10.0.0.8"), a_service("other", "10.96.0.2"))
        assert routed(bench.world) == ["10.0.0.8:8080"]
        assert bench.observer.told == ["followed at once", "queued"], "the other one is left"
        await bench.until_told("synced")
        assert bench.observer.triggers == [2.0, 3.0]


async def test_a_sync_that_fails_is_told_as_failed_and_tried_again() -> None:
    bench = Bench()
    bench.world.kernel_refuses = True
    async with bench.running():
        bench.put(a_service("web", "10.96.0.1"))
        await bench.until_told("sync failed")
        assert "synced" not in bench.observer.told
        bench.world.kernel_refuses = False
        await bench.until_told("synced")


@pytest.mark.parametrize(("family", "queued"), [(V4, 1), (V6, 0)])
async def test_a_node_without_the_tools_of_ipv6_is_none_the_worse_for_it(family: IPFamily, queued: int) -> None:
    bench = Bench(family)
    bench.usable.clear()
    async with bench.running():
        bench.family.changed(None)
        await asyncio.sleep(0)
        assert bench.observer.told.count("queued") == queued
        bench.usable.set()
        await bench.until_told("synced")
        assert bench.observer.told.count("queued") == queued + 1


async def test_our_node_concerns_a_family_only_as_far_as_it_looks_at_it() -> None:
    bench = Bench()
    async with bench.running():
        bench.family.changed(NODE)
        await bench.until_told("synced")
        queued = bench.observer.told.count("queued")
        bench.family.changed(Node(NODE.name, NODE.addresses, zone="a", pod_cidrs=NODE.pod_cidrs, labelled=True))
        assert bench.observer.told.count("queued") == queued
        bench.family.changed(ELSEWHERE)
        assert bench.observer.told.count("queued") == queued + 1


async def test_problems_are_reported_when_they_come_and_when_they_go() -> None:
    bench = Bench()
    bench.world.taken_by_others = {30080}
    async with bench.running():
        bench.put(a_service("web", "10.96.0.1", 30080))
        await bench.until_told("synced")
        while not bench.reports:
            await asyncio.sleep(0.001)
        assert [problem.kind for problem in bench.family.problems] == [ProblemKind.PORT_CONFLICT]
        bench.world.taken_by_others = set()
        bench.put(a_service("other", "10.96.0.2"))
        while bench.family.problems:
            await asyncio.sleep(0.001)
    assert bench.reports == 2


async def test_health_checks_are_served_and_closed_for_a_successor_for_good() -> None:
    (port,) = free_ports(1)
    bench = Bench(options=ON_LOOPBACK)
    bench.world.addresses = frozenset({"127.0.0.1"})
    async with bench.running():
        checked = a_service("web", "10.96.0.1", type="LoadBalancer", external_local=True, health_check_node_port=port)
        bench.put(checked)
        await until_answered(port)
        await bench.family.close_health_checks()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        bench.put(a_service("other", "10.96.0.2"))
        await bench.until_told("synced", bench.observer.told.count("synced") + 1)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


async def until_answered(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.001)
        else:
            writer.close()
            return


async def test_rules_wait_for_the_lease_which_is_announced_with_each_good_sync_and_given_up_at_the_end() -> None:
    bench = Bench(leased=True)
    assert bench.lease is not None
    bench.lease.free.clear()
    async with bench.running():
        bench.put(a_service("web", "10.96.0.1"))
        await bench.lease.wanted.wait()
        assert bench.family.may_have_predecessor
        assert (bench.family.serves, bench.world.syncs) == (False, 0)
        assert set(bench.family.writer_tasks) == {"stale conntrack entries IPv4", "sync IPv4"}
        bench.lease.free.set()
        await bench.until_told("synced")
        assert (bench.family.serves, bench.family.writer_tasks) == (True, ("stale conntrack entries IPv4",))
        await bench.family.give_up()
        assert (bench.family.serves, bench.claims.closings) == (False, 1)
    assert bench.lease.asked == ["acquire", "announce", "release"]


async def test_after_the_rules_are_given_up_endpoints_are_followed_and_nothing_is_written() -> None:
    bench = Bench()
    async with bench.running():
        bench.put(a_service("web", "10.96.0.1"))
        await bench.until_told("synced")
        syncs, followed = bench.world.syncs, bench.observer.told.count("followed")
        await bench.family.give_up()
        bench.put(a_service("web", "10.96.0.1", affinity_timeout=10.0), a_service("new", "10.96.0.2"))
        await bench.until_told("followed", followed + 1)
    assert bench.world.syncs == syncs
    assert [name.service_port for name in bench.world.open_ports] == [WEB]


async def test_a_stop_waits_for_a_sync_that_is_writing() -> None:
    bench = Bench()
    async with bench.running():
        bench.world.may_write.clear()
        bench.put(a_service("web", "10.96.0.1"))
        while not bench.world.syncs:
            await asyncio.sleep(0.001)
        async with asyncio.TaskGroup() as group:
            giving_up = group.create_task(bench.family.give_up(), name="give up")
            await asyncio.sleep(0)
            assert bench.claims.closings == 0
            bench.world.may_write.set()
            await giving_up
        assert bench.claims.closings


async def test_a_sync_that_hangs_holds_up_no_stop_for_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("userproxy.proxier.family.proxy._GIVE_UP_SECONDS", 0.01)
    bench = Bench()
    async with bench.running():
        bench.world.may_write.clear()
        bench.put(a_service("web", "10.96.0.1"))
        while not bench.world.syncs:
            await asyncio.sleep(0.001)
        await bench.family.give_up()
        assert bench.claims.closings


async def test_what_others_left_is_removed_after_the_first_good_sync_and_before_that_is_announced() -> None:
    bench = Bench(leased=True, options=structs.replace(HOURS, sync_period=0.02))
    assert bench.lease is not None
    asked = bench.lease.asked
    outcomes = iter([False, True])

    async def clean_up(driver: PortalDriver, may_wait: bool) -> OthersCleaned:
        assert not may_wait
        assert driver is bench.driver
        asked.append("clean up")
        return OthersCleaned(all_gone=next(outcomes))

    bench.family = bench.proxy(clean_up)
    bench.world.kernel_refuses = True
    async with bench.running():
        bench.put(a_service("web", "10.96.0.1"))
        await bench.until_told("sync failed")
        assert asked == ["acquire"]
        bench.world.kernel_refuses = False
        await bench.until_told("synced", 5)
    assert asked[:5] == ["acquire", "clean up", "announce", "clean up", "announce"], "tried until nothing is left"
    assert set(asked[5:]) == {"announce"}


class Flows:
    """Conntrack with the entry of a UDP client that sends on and on, which the rules of two drivers lead."""

    def __init__(self, asked: list[str]) -> None:
        self._asked = asked

    async def delete(self, protocols: Collection[Protocol], is_stale: Callable[[FlowEntry], bool]) -> int:
        other, ours = (Entry("10.96.0.1", 80, "192.0.2.10", port, Protocol.TCP) for port in (40000, 40001))
        assert (is_stale(other), is_stale(ours)) == (True, False)
        assert protocols == {Protocol.TCP}
        self._asked.append("search")
        return 1


@pytest.mark.parametrize("removed", [True, False])
async def test_clients_that_rules_of_others_led_are_unpinned_once_these_are_gone_and_before_that_is_announced(
    removed: bool,
) -> None:
    """Where they come before ours, a client has an entry of theirs again right after the search that ours call for."""
    bench = Bench(leased=True)
    assert bench.lease is not None
    asked = bench.lease.asked

    async def clean_up(_driver: PortalDriver, _may_wait: bool) -> OthersCleaned:
        while "search" not in asked:
            await asyncio.sleep(0.001)
        asked.append("clean up")
        return OthersCleaned(removed=removed)

    bench.family = bench.proxy(clean_up, conntrack=Flows(asked))
    async with bench.running():
        bench.put(a_service("web", "10.96.0.1"))
        while "announce" not in asked:
            await asyncio.sleep(0.001)
    again = ["search"] if removed else []
    assert asked == ["acquire", "search", "clean up", *again, "announce"]


async def test_another_driver_of_the_same_traits_takes_over_with_the_lease_and_is_asked_for_everything() -> None:
    bench = Bench(leased=True)
    assert bench.lease is not None
    async with bench.running():
        bench.put(a_service("web", "10.96.0.1"))
        await bench.until_told("synced")
        ports, before = dict(bench.world.open_ports), bench.world.bindings
        other = Portals(bench.world)
        assert await bench.family.move_to(other)
        assert bench.family.driver is other
        assert (bench.world.open_ports, bench.world.bindings) == (ports, before)
        assert "release" not in bench.lease.asked
        bench.put(a_service("api", "10.96.0.2"))
        await bench.until_told("synced", 3)
        assert len(bench.world.bindings or ()) == 2
        await bench.family.give_up()
    assert bench.lease.asked.count("release") == 1


async def test_the_driver_that_took_over_watches_what_stands_and_the_one_before_is_closed() -> None:
    bench = Bench(leased=True)
    told: list[str] = []
    watched = asyncio.Event()

    class Watching(Portals):
        async def watch(self, disturbed: Callable[[], None]) -> None:
            told.append("watch")
            watched.set()
            disturbed()
            try:
                await asyncio.Event().wait()
            finally:
                told.append("left")

        async def close(self) -> None:
            told.append("closed")

    bench.driver = Watching(bench.world)
    bench.driver.lease = cast("Lease | None", bench.lease)
    bench.family = bench.proxy()
    async with bench.running():
        bench.put(a_service("web", "10.96.0.1"))
        await bench.until_told("synced")
        watched.clear()
        assert await bench.family.move_to(Watching(bench.world))
        await watched.wait()
        assert told == ["watch", "left", "closed", "watch"]
    assert told[4:] == ["left", "closed"]


async def test_where_the_other_driver_cannot_write_the_one_before_goes_on() -> None:
    bench = Bench(leased=True)

    class Refusing(Portals):
        async def sync(self, *args: object, **named: object) -> PortalSync:
            raise KernelToolError("no chain of that name")

    async with bench.running():
        assert not await bench.family.move_to(Portals(bench.world)), "it does not serve yet"
        bench.put(a_service("web", "10.96.0.1"))
        await bench.until_told("synced")
        before = bench.world.bindings
        assert not await bench.family.move_to(Refusing(bench.world))
        assert bench.family.driver is bench.driver
        assert bench.world.bindings == before
        assert bench.observer.told[-2:] == ["sync began", "synced"]
