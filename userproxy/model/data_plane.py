"""The one interface through which the data plane is asked what it does.

Arguments and results are values that can be sent as messages: who answers may be in this process or in several others.
"""

from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

from userproxy.errors import UserproxyError
from userproxy.model.balancer_reports import BalancerFault, EjectedEndpoint
from userproxy.model.capture import CAPTURE_ROOM, CaptureEvent, CaptureRequest
from userproxy.model.holding import HeldClients
from userproxy.model.reports import (
    ALL,
    Batch,
    Choice,
    ConnectionChange,
    ConnectionPage,
    Decision,
    ListenerFigures,
    LostAnswers,
    ProcessFigures,
    Query,
)
from userproxy.model.snapshots import Endpoint, ListenerName

T = TypeVar("T")

WATCH_ROOM = 8192
"""Events that wait for a reader at most, unless it asks for another number."""


class HandedOverError(UserproxyError):
    """Who is asked has just handed its connections over: they can be asked for again, of another process."""

    def __init__(self) -> None:
        super().__init__("another userproxy has just taken over from this one: ask again")


class Watch(Protocol[T]):
    """Events as they come, for one reader."""

    async def read(self) -> Batch[T]:
        """All events since the last call, at least one: waits for it.

        A reader for whom more events wait than it has room for is cut off: it gets those that waited and, in the same
        batch, the number of those that were lost. After a batch with `lost` there is none.
        """


class DataPlane(Protocol):
    """What carries the traffic, as commands, metrics and the admin API see it.

    Answers are made in slices between which traffic is served, so two values in one answer may be of two moments.
    Who hands its connections over meanwhile goes on to tell what it had counted.
    """

    async def listeners(self, query: Query = ALL) -> tuple[ListenerFigures, ...]:
        """The listeners that are open, in no order; of `query` the service, protocol and family count."""

    async def closed_listeners(self) -> tuple[ListenerFigures, ...]:
        """The listeners that were closed within the last minutes, or that still have clients.

        Of thousands that were closed only the last are remembered. They have only those endpoints whose clients are
        left.
        """

    async def connections(self, query: Query = ALL, limit: int = 1000, after: int = 0) -> ConnectionPage:
        """The first `limit` connections and flows with ids above `after`, by id. Raises HandedOverError."""

    async def decisions(self, query: Query = ALL, last: int = 100) -> tuple[Decision, ...]:
        """The `last` decisions that are remembered, in the order of their times. The oldest are forgotten.

        Raises HandedOverError.
        """

    def watch_decisions(
        self, query: Query = ALL, room: int = WATCH_ROOM
    ) -> AbstractAsyncContextManager[Watch[Decision]]:
        """All decisions from now on, until the context is left."""

    def watch_connections(
        self, query: Query = ALL, room: int = WATCH_ROOM
    ) -> AbstractAsyncContextManager[Watch[ConnectionChange]]:
        """What becomes of connections and flows from now on, until the context is left.

        Several changes of one connection between two reads are one. One that is over before it was told of is told of
        as removed. `room` is for connections.
        """

    def capture(
        self, request: CaptureRequest, room: int = CAPTURE_ROOM
    ) -> AbstractAsyncContextManager[Watch[CaptureEvent]]:
        """The bytes of connections and flows as they pass, until the context is left.

        `room` is bytes that may wait for the reader. Traffic never waits for it. What ends the capture is up to the
        reader, also where no further connection will be captured because there were as many as are asked for.
        """

    async def peek(self, listener: ListenerName, client: str, tried: tuple[Endpoint, ...] = ()) -> Choice:
        """Which endpoint a client's next connection would get. Changes nothing.

        `tried` are endpoints that it could not reach. Raises KeyError for a listener that is not open, and
        HandedOverError.
        """

    async def processes(self) -> tuple[ProcessFigures, ...]:
        """The processes that carry traffic."""

    async def lost_answers(self) -> tuple[LostAnswers, ...]:
        """Where answers to clients' addresses do not come back, so that endpoints see the node's: a few at most."""

    async def ejected_endpoints(self) -> tuple[EjectedEndpoint, ...]:
        """The endpoints that are ejected now; of several processes, as the first of them has found."""

    async def balancer_faults(self) -> tuple[BalancerFault, ...]:
        """The listeners whose balancers, of other packages, are not used because they are faulty."""

    async def held_clients(self) -> tuple[HeldClients, ...]:
        """The service ports whose clients are held because there is no endpoint, or were."""
