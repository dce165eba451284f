"""A control plane and a data plane that say what a test has told them to, and a server that shows it."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from userproxy import __version__
from userproxy.addresses import IPFamily
from userproxy.admin.client import AdminClient
from userproxy.admin.items import Configuration, Differences, Status, Version
from userproxy.admin.rows import Controls, Planes
from userproxy.admin.server import AdminServer, Objects
from userproxy.admin.steering.fault_table import FaultTable
from userproxy.model import Endpoint, ListenerName, Portal, PortalKind, Problem, Protocol, ServicePortName
from userproxy.model.balancer_reports import BalancerFault, EjectedEndpoint
from userproxy.model.capture import CAPTURE_ROOM, CaptureEvent, CaptureRequest
from userproxy.model.data_plane import WATCH_ROOM, Watch
from userproxy.model.faults import Fault
from userproxy.model.holding import HeldClients
from userproxy.model.reports import (
    ALL,
    Attempt,
    Batch,
    Choice,
    ConnectionChange,
    ConnectionPage,
    ConnectionReport,
    ConnectionState,
    Decision,
    ListenerFigures,
    LostAnswers,
    Outcome,
    ProcessFigures,
    Query,
    SocketAddress,
    Source,
)
from userproxy.model.sources import WatchReport
from userproxy.proxier.drains.table import DrainTable
from userproxy.proxier.inspect.explanation import Explanation
from userproxy.proxier.inspect.reports import (
    EndpointReport,
    FamilyDifferences,
    FamilyReport,
    PortalReport,
    ServicePortReport,
)

T = TypeVar("T")

WEB = ServicePortName("default", "web", "http", Protocol.TCP)
DNS = ServicePortName("kube-system", "dns", "dns", Protocol.UDP)
ONE = Endpoint("10.1.0.1", 8080)
TWO = Endpoint("10.1.0.2", 8080)


class Control:
    """Service ports as `ports` and `listed` have them."""

    def __init__(self) -> None:
        self.ports: dict[ServicePortName, tuple[ServicePortReport, ...]] = {}
        self.listed: dict[ServicePortName, tuple[EndpointReport, ...]] = {}
        self.found: frozenset[Problem] = frozenset()
        self.explanations: list[Explanation] = []

    def add(self, name: ServicePortName, *endpoints: Endpoint, ip: str = "10.96.0.10", port: int = 80) -> None:
        portal = PortalReport(Portal(PortalKind.CLUSTER_IP, ip, port), 40000, in_sync=True)
        count = len(endpoints)
        self.ports[name] = (ServicePortReport(name, IPFamily.IPV4, "iptables", (portal,), None, count, count),)
        self.listed[name] = tuple(
            EndpointReport(each, "node-1", "a", True, True, False, usable=True, reason="") for each in endpoints
        )

    def names(self) -> Collection[ServicePortName]:
        return self.ports.keys()

    def service_ports(self, name: ServicePortName) -> tuple[ServicePortReport, ...]:
        return self.ports.get(name, ())

    def endpoints(self, name: ServicePortName) -> tuple[EndpointReport, ...]:
        return self.listed.get(name, ())

    async def explain(self, name: ServicePortName, client: str, to: Endpoint | None) -> Explanation | None:
        return next((each for each in self.explanations if each.name == name and to in (None, _at(each))), None)

    def problems(self) -> frozenset[Problem]:
        return self.found

    def object_problems(self) -> tuple[str, ...]:
        return ()

    async def differences(self) -> tuple[FamilyDifferences, ...]:
        return ()

    def families(self) -> tuple[FamilyReport, ...]:
        return ()

    def watches(self) -> tuple[WatchReport, ...]:
        return ()


def _at(explanation: Explanation) -> Endpoint:
    return Endpoint(explanation.portal.ip, explanation.portal.port)


class Events(Generic[T]):
    """What is told to one reader, who is cut off where more than `room` wait."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._waiting: deque[T] = deque()
        self._lost = 0
        self._told = asyncio.Event()

    def tell(self, event: T) -> None:
        if self._lost or len(self._waiting) >= self._room:
            self._lost += 1
        else:
            self._waiting.append(event)
        self._told.set()

    async def read(self) -> Batch[T]:
        await self._told.wait()
        self._told.clear()
        batch = Batch(tuple(self._waiting), self._lost)
        self._waiting.clear()
        return batch


class Data:
    """Connections, decisions and figures as the test has set them."""

    def __init__(self) -> None:
        self.figures: tuple[ListenerFigures, ...] = ()
        self.open: list[ConnectionReport] = []
        self.made: list[Decision] = []
        self.choices: dict[ListenerName, Choice] = {}
        self.room: int | None = None
        """Of watches, in place of what they ask for."""
        self.decision_watches: list[Events[Decision]] = []
        self.connection_watches: list[Events[ConnectionChange]] = []
        self.watched = 0
        """How many watches there have been."""
        self.captures: list[Events[CaptureEvent]] = []
        self.asked_for: list[CaptureRequest] = []
        """What captures were begun with."""
        self.passing: tuple[CaptureEvent, ...] = ()
        """What each capture is told of at once; then its reader was too slow."""

    async def listeners(self, query: Query = ALL) -> tuple[ListenerFigures, ...]:
        return tuple(each for each in self.figures if _meant(each.listener, query))

    async def connections(self, query: Query = ALL, limit: int = 1000, after: int = 0) -> ConnectionPage:
        found = [each for each in self.open if each.id > after and _meant(each.listener, query) and _fits(each, query)]
        return ConnectionPage(tuple(found[:limit]), found[limit - 1].id if len(found) > limit else None)

    async def decisions(self, query: Query = ALL, last: int = 100) -> tuple[Decision, ...]:
        found = [each for each in self.made if not query.outcomes or each.verdict in query.outcomes]
        return tuple(found[-last:])

    def watch_decisions(
        self, query: Query = ALL, room: int = WATCH_ROOM
    ) -> AbstractAsyncContextManager[Watch[Decision]]:
        return self._watch(self.decision_watches, room)

    def watch_connections(
        self, query: Query = ALL, room: int = WATCH_ROOM
    ) -> AbstractAsyncContextManager[Watch[ConnectionChange]]:
        return self._watch(self.connection_watches, room)

    def capture(
        self, request: CaptureRequest, room: int = CAPTURE_ROOM
    ) -> AbstractAsyncContextManager[Watch[CaptureEvent]]:
        self.asked_for.append(request)
        return self._capture(len(self.passing) if self.passing else room)

    @asynccontextmanager
    async def _capture(self, room: int) -> AsyncIterator[Events[CaptureEvent]]:
        async with self._watch(self.captures, room) as events:
            for event in (*self.passing, *self.passing[:1]):
                events.tell(event)
            yield events

    @asynccontextmanager
    async def _watch(self, watches: list[Events[T]], room: int) -> AsyncIterator[Events[T]]:
        events: Events[T] = Events(room if self.room is None else self.room)
        watches.append(events)
        self.watched += 1
        try:
            yield events
        finally:
            watches.remove(events)

    async def peek(self, listener: ListenerName, client: str, tried: tuple[Endpoint, ...] = ()) -> Choice:
        return self.choices[listener]

    async def closed_listeners(self) -> tuple[ListenerFigures, ...]:
        return ()

    async def processes(self) -> tuple[ProcessFigures, ...]:
        return ()

    async def lost_answers(self) -> tuple[LostAnswers, ...]:
        return ()

    async def balancer_faults(self) -> tuple[BalancerFault, ...]:
        return ()

    async def held_clients(self) -> tuple[HeldClients, ...]:
        return ()

    async def ejected_endpoints(self) -> tuple[EjectedEndpoint, ...]:
        return ()


def _meant(listener: ListenerName, query: Query) -> bool:
    name = listener.service_port
    return query.namespace in ("", name.namespace) and query.service in ("", name.name)


def _fits(report: ConnectionReport, query: Query) -> bool:
    return not query.states or report.state in query.states


def connection(number: int, name: ServicePortName = WEB, **changed: Any) -> ConnectionReport:
    """A connection with an id; everything else is plausible."""
    given: dict[str, Any] = {
        "client": SocketAddress("10.2.0.9", 1024 + number % 60_000),
        "portal": SocketAddress("10.96.0.10", 80),
        "endpoint": ONE,
        "state": ConnectionState.OPEN,
        "opened": 5.0,
        "opened_at": 1.7e9,
        "age_seconds": 1.23456789,
        "idle_seconds": 0.5,
        "bytes_up": 100,
        "bytes_down": 2000,
        "dial_seconds": 0.00025,
        "source": Source.CLIENT,
        "dialled_from": SocketAddress("10.2.0.9", 61_001),
    }
    return ConnectionReport(id=number, listener=ListenerName(name), **{**given, **changed})


def decision(number: int, verdict: Outcome = Outcome.SERVED) -> Decision:
    """One that an endpoint served, or what `verdict` says; where it was retried, another one had refused."""
    report = connection(number)
    tried = (Attempt(TWO, "connection refused"),) if verdict is Outcome.RETRIED else ()
    return Decision(
        1.7e9 + number, report.listener, SocketAddress("10.2.0.9", 5), None, ONE, verdict, tried=tried, id=number
    )


class Steered:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.closed: list[tuple[Query, str]] = []
        self.faults: tuple[Fault, ...] = ()

    def put_faults(self, faults: tuple[Fault, ...]) -> None:
        self.faults = faults

    async def close_connections(self, query: Query, reason: str) -> int:
        self.closed.append((query, reason))
        return len(self.closed)


class Served:
    """A running server with its planes, and clients for it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.control = Control()
        self.data = Data()
        self.differences = Differences((), (), ())
        self.status = Status(
            in_sync=True,
            healthy=True,
            version=__version__,
            node="node-1",
            source="here",
            families=(),
            watches=(),
            processes=(),
            problems=0,
        )
        objects = Objects(
            configuration=lambda: Configuration({"kind": "KubeProxyConfiguration"}, {"at_stop": "remove"}),
            version=lambda: Version(__version__, "v1", "3", 1, "node-1", "2026-01-01T00:00:00Z"),
            status=self._status,
            differences=self._differences,
        )
        self.may_capture = False
        self.steering = Steered()
        self.drains = DrainTable(asyncio.get_running_loop())
        self.may_have_faults = False
        self.faults = FaultTable(self.steering, lambda: self.may_have_faults)
        planes = Planes(self.control, self.data, Controls(self.steering, self.drains, self.faults))
        self.server = AdminServer(path, planes, objects, may_capture=lambda: self.may_capture)

    async def _status(self) -> Status:
        return self.status

    async def _differences(self) -> Differences:
        return self.differences

    @property
    def client(self) -> AdminClient:
        return AdminClient(self.path)

    async def get(self, route: str, **parameters: Any) -> dict[str, Any]:
        """As a command gets it, which blocks."""
        return await asyncio.to_thread(self.client.get, route, **parameters)

    async def all_items(self, route: str, **parameters: Any) -> Sequence[dict[str, Any]]:
        """All pages."""
        return await asyncio.to_thread(lambda: list(self.client.items(route, **parameters)))

    async def items(self, route: str, **parameters: Any) -> Sequence[dict[str, Any]]:
        found: Sequence[dict[str, Any]] = (await self.get(route, **parameters))["items"]
        return found


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[Served]:
    """A server whose socket is in `folder`, and listens by now."""
    made = Served(folder / "admin.sock")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(made.server.run(), name="admin")
        while not made.path.exists():
            await asyncio.sleep(0)
        yield made
        task.cancel()
