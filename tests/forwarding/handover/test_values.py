"""Nothing of a connection, dial, flow, balancer or counter is forgotten by the values that are handed over."""

from collections.abc import Iterable

import msgspec
import pytest

from userproxy.forwarding.handover import values
from userproxy.forwarding.observation.counters import (
    CountersState,
    DialCounts,
    DialCountsState,
    EndpointCounters,
    EndpointCountersState,
    ListenerCounters,
)
from userproxy.forwarding.tcp.dialer import Dial
from userproxy.forwarding.tcp.direction import Direction
from userproxy.forwarding.tcp.introductions import IntroducedDial
from userproxy.forwarding.tcp.listener import TcpListener
from userproxy.forwarding.tcp.relays.established import EstablishedConnection
from userproxy.forwarding.tcp.states import DialState, DirectionState, RelayState
from userproxy.forwarding.udp.flow import UdpFlow
from userproxy.forwarding.udp.flow_account import FlowAccount
from userproxy.forwarding.udp.flows import Flow
from userproxy.forwarding.udp.states import FlowState
from userproxy.forwarding.udp.statistics import UdpStatistics
from userproxy.routing.affinity import AffinityState, AffinityTable
from userproxy.routing.balancer import Balancer
from userproxy.routing.balancers.state import BalancerState

COVERED: dict[type, tuple[type[msgspec.Struct], dict[str, str], set[str]]] = {
    # The class, the value of it, attributes that have another name there, and those that follow from others, are
    # parts of this process, or are the sockets.
    Direction: (
        DirectionState,
        {"_streak": "streak", "_kept": "kept", "_pending": "pending", "_pipe": "fill"},
        {"_context", "_due", "_parts", "_read", "_relay", "_sent", "_sink", "_source", "_view", "usual"},
    ),
    Dial: (
        DialState,
        {"_attempt": "attempt", "_backend": "deadline", "_chosen": "chosen"},
        {
            "_decider",  # it is asked again
            "_dialer",
            "_limit",
            "_owner",
            "_waits",  # it begins to wait anew
            "address",
            "client",
            "closed",
            "given_up",
            "name",
            "relay",
        },
    ),
    IntroducedDial: (
        DialState,
        {"_version": "awaits", "awaits_header": "awaits"},
        {"_introductions", "_is_watched", "_on_introduced", "_on_refused", "proxy"},
    ),
    EstablishedConnection: (
        RelayState,
        {
            "count_up": "up",
            "count_down": "down",
            "_ways": "up",
            "ended_up": "up",
            "ended_down": "down",
            "_seen": "seen",
            "settled_up": "settled",
            "settled_down": "settled",
            "id": "dial",
            "endpoint": "dial",
        },
        {"_backend", "_client", "_context", "_limit", "_owner", "_parts", "_view", "closed", "counters", "cut"},
    ),
    UdpFlow: (
        FlowState,
        {"trial": "is_trial"},
        {"_closed", "_descriptor", "_outbox", "_socket", "receive_into", "send"},
    ),
    FlowAccount: (
        FlowState,
        {"settled_up": "settled", "settled_down": "settled"},
        {"_statistics", "address", "counters", "listener"},
    ),
    Flow: (FlowState, {}, set()),
    Balancer: (
        BalancerState,
        {
            "_ejected": "ejected",
            "_ejections": "ejected",
            "_endpoints": "endpoints",
            "_method": "turn",
            "_name": "name",
            "_suspects": "suspects",
            "_weights": "weights",
        },
        {
            "_affinity",
            "_affinity_table",
            "_board",
            "_choose",
            "_custom",
            "_loads",
            "_members",
            "_random",
            "_usable",
            "_wary",
            "fault",
            "listener",
        },
    ),
    AffinityTable: (
        AffinityState,
        {
            "_dead": "dead",
            "_dying": "dying",
            "_endpoints": "endpoints",
            "_reusable": "reusable",
            "_since": "since",
        },
        # The entries are handed over by themselves.
        {"__weakref__", "_changed", "_discarded", "_indices", "_lists", "_old", "_young"},
    ),
    DialCounts: (DialCountsState, {}, set()),
    EndpointCounters: (EndpointCountersState, {}, {"active", "in_time_wait", "shared", "usable"}),
    ListenerCounters: (
        CountersState,
        dict.fromkeys(ListenerCounters.numbers, "numbers"),
        {"active", "held", "number"},
    ),
    UdpStatistics: (CountersState, dict.fromkeys(UdpStatistics.numbers, "numbers"), {"_sockets"}),
    TcpListener: (
        values.ListenerHandedOver,
        {"connections": "counters", "_verdict": "verdict"},
        {
            "_accepting",
            "_budget",
            "_closed",
            "_held",  # by themselves
            "_plane",
            "_poller",
            "_portal",
            "_portals_only",
            "_share",
            "_shares",
            "_socket",
        },
    ),
}


@pytest.mark.parametrize("kind", COVERED, ids=lambda kind: kind.__name__)
def test_a_value_has_all_that_there_is_to_know(kind: type) -> None:
    """Whoever adds an attribute says here what becomes of it in a hand-over, and adds it to the value if need be."""
    state, named, derived = COVERED[kind]
    fields = {field.name for field in msgspec.structs.fields(state)}
    assert not set(named.values()) - fields
    for slot in slots(kind):
        known = slot in derived or named.get(slot, slot) in fields
        assert known, f"{kind.__name__}.{slot} is not handed over by {state.__name__}"
    assert not derived - set(slots(kind)), "these are no attributes any more"


def slots(kind: type) -> Iterable[str]:
    found: Iterable[str] = kind.__slots__  # type: ignore[attr-defined]
    return found


def test_releases_whose_values_are_others_are_told_apart() -> None:
    assert values.release() == values.release() != 0
