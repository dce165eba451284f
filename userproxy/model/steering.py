"""What the running proxy is asked to do with endpoints and connections, besides what the cluster says."""

from typing import Final, Protocol

from msgspec import Struct

from userproxy.model.cluster import ServiceName
from userproxy.model.faults import Fault
from userproxy.model.reports import Query
from userproxy.model.snapshots import Endpoint

CLOSED_ON_REQUEST: Final = "closed on request"
DRAINED: Final = "the endpoint is drained"


class Drain(Struct, frozen=True, gc=False):
    """An endpoint of a Service that gets no new clients while another one is usable.

    It ends at `until`, or when it is told to if that is None. At `closes_at` the connections that are left are closed;
    None leaves them alone, also once they have been closed. Times are of CLOCK_MONOTONIC, but `since` is
    Unix time.
    """

    service: ServiceName
    endpoint: Endpoint
    began: float
    since: float
    until: float | None = None
    closes_at: float | None = None


class Steering(Protocol):
    """What the data plane is told to do beside snapshots. Who does it may be in this process or in several others."""

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Those that were put in force last, some of which may be over by now; none once a hand-over was tried."""

    def put_faults(self, faults: tuple[Fault, ...]) -> None:
        """Have connections suffer these faults and no others, each until it is over: those there are, and new ones."""

    async def close_connections(self, query: Query, reason: str) -> int:
        """Reset all connections, and end all flows, that a query is about; returns how many they were.

        It is done in slices between which traffic is served. `reason` is what decisions say of them. Raises
        HandedOverError: some of them may be closed then, and others are another process's.
        """
