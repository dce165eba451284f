"""What a capture tells of connections and UDP flows: their addresses, and their bytes in the order in which they pass.

A proxied connection has two legs with addresses of their own: from the client to the portal, and from this node to the
endpoint. Times are Unix times.
"""

from enum import StrEnum
from typing import Final, TypeAlias

from msgspec import Struct

from userproxy.model.reports import ALL, Attempt, Outcome, Query, SocketAddress
from userproxy.model.snapshots import Endpoint, ListenerName


class Leg(StrEnum):
    """One of the two connections that make a proxied one."""

    CLIENT = "client"
    BACKEND = "backend"


class SegmentKind(StrEnum):
    """What has passed: payload, the end of a direction, or a reset."""

    DATA = "data"
    FIN = "fin"
    RST = "rst"


class CaptureRequest(Struct, frozen=True, gc=False):
    """What is to be captured.

    Of `query`, namespace, service, port, protocol, family, endpoint and client count. `payload_bytes` is how much
    payload each direction of a connection is captured of, None for all. `connections` is how many connections are to be
    captured from beginning to end; None for all, and for those that are open already.
    """

    query: Query = ALL
    payload_bytes: int | None = None
    connections: int | None = None


class Opened(Struct, frozen=True, gc=False, tag="opened"):
    """A connection or flow is captured from here on; a UDP flow that moves to another endpoint is told of again.

    `node` is the backend leg's address on this node. It is None, like `endpoint`, where no endpoint has accepted.
    `accepted` is when the client was accepted, `dialed` and `connected` when the endpoint was dialled and when it
    accepted. `whole` is False where it was open before. `tried` are endpoints that were tried in vain.
    """

    connection: int
    listener: ListenerName
    client: SocketAddress
    portal: SocketAddress
    node: SocketAddress | None
    endpoint: Endpoint | None
    accepted: float
    dialed: float
    connected: float
    whole: bool = True
    tried: tuple[Attempt, ...] = ()


class Segment(Struct, frozen=True, gc=False, tag="segment"):
    """Something has passed on a leg: `up` from the client towards the endpoint, else the other way.

    `size` is how many bytes that were; `data` has less where no more is captured.
    """

    connection: int
    time: float
    leg: Leg
    up: bool
    kind: SegmentKind = SegmentKind.DATA
    data: bytes = b""
    size: int = 0


class Ended(Struct, frozen=True, gc=False, tag="ended"):
    """A connection or flow is over. Whatever has not been told to have ended by then, ends with it."""

    connection: int
    time: float
    verdict: Outcome
    reason: str = ""
    duration_seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0


CaptureEvent: TypeAlias = Opened | Segment | Ended

CAPTURE_ROOM: Final = 64 * 1024 * 1024
"""Bytes that wait for a reader of a capture at most."""
