"""What the control process asks of a data process: figures, lists and watches, each with the number of its answer."""

from typing import Final, TypeAlias

from msgspec import Raw, Struct

from userproxy.model import Endpoint, ListenerName
from userproxy.model.capture import CaptureRequest
from userproxy.model.reports import ListenerFigures, Query


class AskListeners(Struct, frozen=True, tag="listeners?"):
    """For ListenerAnswers: open listeners that a query is about, none for None, and all that are closed."""

    id: int
    query: Query | None


class ListenerAnswer(Struct, frozen=True, array_like=True):
    """The figures of one listener, open or closed at the moment that the whole answer is of."""

    figures: ListenerFigures
    is_open: bool


class AskConnections(Struct, frozen=True, tag="connections?"):
    """For the ConnectionReports of a page."""

    id: int
    query: Query
    limit: int
    after: int


class AskDecisions(Struct, frozen=True, tag="decisions?"):
    """For Decisions, one each."""

    id: int
    query: Query
    last: int


class AskChoice(Struct, frozen=True, tag="choice?"):
    """For one Choice, or none for a listener that this process does not serve."""

    id: int
    listener: ListenerName
    client: str
    tried: tuple[Endpoint, ...]


class AskProcess(Struct, frozen=True, tag="process?"):
    """For one ProcessFigures."""

    id: int


class AskLostAnswers(Struct, frozen=True, tag="lost answers?"):
    """For LostAnswers, one each."""

    id: int


class CloseConnections(Struct, frozen=True, tag="close connections"):
    """End the connections that a query is about. For one number: how many they were."""

    id: int
    query: Query
    reason: str


class AskEjectedEndpoints(Struct, frozen=True, tag="ejected endpoints?"):
    """For EjectedEndpoints, one each."""

    id: int


class AskBalancerFaults(Struct, frozen=True, tag="balancer faults?"):
    """For BalancerFaults, one each."""

    id: int


class AskHeldClients(Struct, frozen=True, tag="held clients?"):
    """For HeldClients, one each."""

    id: int


class WatchDecisions(Struct, frozen=True, tag="watch decisions"):
    """For Batches of Decisions until :class:`Enough`."""

    id: int
    query: Query
    room: int


class WatchConnections(Struct, frozen=True, tag="watch connections"):
    """For Batches of ConnectionChanges until :class:`Enough`."""

    id: int
    query: Query
    room: int


class Capture(Struct, frozen=True, tag="capture"):
    """For Batches of CaptureEvents until :class:`Enough`."""

    id: int
    request: CaptureRequest
    room: int


class Enough(Struct, frozen=True, tag="enough"):
    """A question is not to be answered any longer."""

    id: int


class Answer(Struct, frozen=True, tag="answer"):
    """Part of the answer to a question; `last` is the end of it. `failure` says why there is none.

    `lost` are events that were thrown away, because the reader of a watch was too slow. One without parts, and not the
    last, comes first of all of a watch: what happens from then on is told.
    """

    id: int
    parts: tuple[Raw, ...] = ()
    last: bool = False
    lost: int = 0
    failure: str = ""


QUESTIONS: Final = (
    AskListeners,
    AskConnections,
    AskDecisions,
    AskChoice,
    AskProcess,
    AskLostAnswers,
    AskEjectedEndpoints,
    AskBalancerFaults,
    AskHeldClients,
    CloseConnections,
    WatchDecisions,
    WatchConnections,
    Capture,
)

Question: TypeAlias = (
    AskListeners
    | AskConnections
    | AskDecisions
    | AskChoice
    | AskProcess
    | AskLostAnswers
    | AskEjectedEndpoints
    | AskBalancerFaults
    | AskHeldClients
    | CloseConnections
    | WatchDecisions
    | WatchConnections
    | Capture
)
