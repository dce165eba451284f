"""UDP flows as values: all that a process must know to go on with those of another one, beside their sockets.

Times are of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from msgspec import Struct

from userproxy.forwarding.udp.flow import LARGE, UdpFlow
from userproxy.model import Endpoint
from userproxy.model.reports import DialFailure, Source


class FlowState(Struct, frozen=True, gc=False, array_like=True):
    """A client of a listener.

    `client` tells it from others and `addressee` is how answers are sent to it, both as this release has them in
    memory. `unanswered` is the datagram that waits for an answer; with `is_large`, one that is not kept. `source` is
    whose address its endpoint sees, and with `is_trial` it is not known yet whether that can be the client's. `portal`
    is what the client writes to, if that is known.
    """

    id: int
    client: bytes
    peer: tuple[str, int]
    addressee: bytes
    opened: float
    seen: float
    due: float
    stream: bool
    answered: bool
    is_large: bool
    unanswered: bytes | None
    tried: tuple[Endpoint, ...]
    endpoint: Endpoint
    failed: tuple[tuple[Endpoint, str, DialFailure], ...]
    retries: int
    bytes_up: int
    bytes_down: int
    settled: tuple[int, int]
    source: Source | None
    is_trial: bool
    portal: bytes | tuple[str, int] | None


def state_of(flow: UdpFlow) -> FlowState | None:
    """A flow as a value, to which its socket belongs; None before it has one."""
    if flow.endpoint is None or flow.socket is None:
        return None
    is_large = flow.unanswered is LARGE
    portal = flow.portal
    return FlowState(
        flow.id,
        flow.client,
        flow.peer[:2],
        flow.addressee,
        flow.opened,
        flow.seen,
        flow.due,
        flow.stream,
        flow.answered,
        is_large,
        None if is_large else flow.unanswered,
        flow.tried,
        flow.endpoint,
        flow.failed,
        flow.retries,
        flow.bytes_up,
        flow.bytes_down,
        (flow.settled_up, flow.settled_down),
        flow.source,
        flow.trial is not None and not flow.trial.decided,
        portal if portal is None or isinstance(portal, bytes) else portal[:2],
    )


def restore(flow: UdpFlow, state: FlowState) -> None:
    """Have a flow be as `state` says, but for its endpoint and its place among the listener's flows."""
    flow.id, flow.opened, flow.answered = state.id, state.opened, state.answered
    flow.unanswered = LARGE if state.is_large else state.unanswered
    flow.tried, flow.failed, flow.retries = state.tried, state.failed, state.retries
    flow.bytes_up, flow.bytes_down = state.bytes_up, state.bytes_down
    flow.settled_up, flow.settled_down = state.settled
    flow.source, flow.portal = state.source, state.portal
