"""Figures of listeners as a data plane would give them."""

from collections.abc import Sequence
from typing import Any, cast

from msgspec.structs import replace

from userproxy.model import Endpoint, IPFamily, ListenerName, Protocol, ServicePortName, TrafficClass, Verdict
from userproxy.model.data_plane import DataPlane
from userproxy.model.reports import (
    ALL,
    DatagramFigures,
    EndpointFigures,
    ListenerFigures,
    ProcessFigures,
    Query,
)

POD_1, POD_2 = Endpoint("10.1.0.1", 80), Endpoint("10.1.0.2", 80)


def service_port(name: str = "web", protocol: Protocol = Protocol.TCP) -> ServicePortName:
    return ServicePortName("shop", name, "http", protocol)


def figures(
    name: str = "web",
    protocol: Protocol = Protocol.TCP,
    family: IPFamily = IPFamily.IPV4,
    traffic: TrafficClass = TrafficClass.INTERNAL,
    **others: Any,
) -> ListenerFigures:
    """One listener; `others` are fields of ListenerFigures."""
    datagrams = DatagramFigures() if protocol is Protocol.UDP else None
    made = ListenerFigures(
        ListenerName(service_port(name, protocol), family, traffic), Verdict.SERVE, datagrams=datagrams
    )
    return replace(made, **others)


def endpoint(which: Endpoint = POD_1, **others: Any) -> EndpointFigures:
    return EndpointFigures(which, **others)


class StubDataPlane:
    """Answers with what it was given last."""

    def __init__(self, *listeners: ListenerFigures) -> None:
        self.given: Sequence[ListenerFigures] = listeners
        self.closed: Sequence[ListenerFigures] = ()
        self.running: Sequence[ProcessFigures] = (ProcessFigures(4711, 20, 1024),)
        self.asked = 0

    async def listeners(self, query: Query = ALL) -> tuple[ListenerFigures, ...]:
        self.asked += 1
        return tuple(self.given)

    async def closed_listeners(self) -> tuple[ListenerFigures, ...]:
        return tuple(self.closed)

    async def processes(self) -> tuple[ProcessFigures, ...]:
        return tuple(self.running)


def as_data_plane(stub: StubDataPlane) -> DataPlane:
    """Metrics ask for nothing else."""
    return cast(DataPlane, stub)
