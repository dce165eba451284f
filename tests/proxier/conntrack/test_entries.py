"""Which entries go: tables of the destinations in which they become stale, and what holds for any bindings."""

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct, structs

from userproxy.model import Portal, PortalBinding, PortalKind, Protocol, ServicePortName, Target, Verdict
from userproxy.proxier.conntrack.entries import PortalTargets, StaleEntries, portal_targets

VIP, LB, NODE, POD, FOREIGN = "10.96.0.10", "203.0.113.5", "192.0.2.10", "10.244.1.5", "198.51.100.53"
REJECT, DROP = Target(Verdict.REJECT), Target(Verdict.DROP)
A, B, C = 41000, 42000, 43000


class Entry(Struct, frozen=True):
    """What conntrack has of a flow. Only NODE is an address of this node."""

    destination: str
    port: int
    reply_source: str
    reply_port: int
    protocol: Protocol = Protocol.UDP

    @property
    def destination_local(self) -> bool:
        return self.destination == NODE

    @property
    def reply_local(self) -> bool:
        return self.reply_source == NODE


def after(now: Iterable[PortalBinding], before: Iterable[PortalBinding] = ()) -> StaleEntries:
    """What is looked for once the rules of `now` stand in place of those of `before`, which had been looked after."""
    targets = PortalTargets()
    targets.change((), before := list(before))
    taken(targets)
    targets.change(before, now)
    return taken(targets)


def taken(targets: PortalTargets) -> StaleEntries:
    found: list[StaleEntries] = []

    def take() -> Iterator[None]:
        found.append((yield from targets.taking()))

    assert not any(take())
    return found[0]


def led(destination: str, port: int, local_port: int) -> Entry:
    """An entry that was translated to a listener of ours."""
    return Entry(destination, port, NODE, local_port)


def untranslated(destination: str, port: int) -> Entry:
    return Entry(destination, port, destination, port)


def serve(port: int) -> Target:
    return Target(Verdict.SERVE, port)


def dns(
    internal: Target,
    external: Target | None = None,
    on_node: Target | None = None,
    *,
    protocol: Protocol = Protocol.UDP,
    portals: Iterable[Portal] = (
        Portal(PortalKind.CLUSTER_IP, VIP, 53),
        Portal(PortalKind.LOAD_BALANCER_IP, LB, 53),
        Portal(PortalKind.NODE_PORT, "", 30053),
    ),
) -> PortalBinding:
    external = internal if external is None else external
    on_node = external if on_node is None else on_node
    name = ServicePortName("default", "dns", "dns", protocol)
    return PortalBinding(name, tuple(portals), internal, external, on_node)


@pytest.mark.parametrize("destination", [(VIP, 53), (LB, 53), (NODE, 30053)])
def test_whoever_wrote_before_the_rules(destination: tuple[str, int]) -> None:
    stale = after([dns(serve(A))])
    assert stale.matches(untranslated(*destination))
    assert stale.matches(led(*destination, B)), "as left by a process before us"
    assert stale.matches(Entry(*destination, POD, 53)), "as left by kube-proxy"
    assert stale.matches(Entry(*destination, POD, A)), "a Pod's port is none of ours"
    assert not stale.matches(led(*destination, A))


@pytest.mark.parametrize(
    "entry",
    [
        untranslated(FOREIGN, 53),
        untranslated(FOREIGN, 30053),
        untranslated(NODE, 53),
        untranslated(VIP, 54),
        untranslated(VIP, 30053),
        untranslated(NODE, A),
        led(FOREIGN, 53, A),
        led(FOREIGN, 30053, A),
    ],
)
def test_what_concerns_no_portal_stays(entry: Entry) -> None:
    assert not after([dns(serve(A))], [dns(serve(B))]).matches(entry)


def test_a_listener_that_moved() -> None:
    stale = after([dns(serve(B))], [dns(serve(A))])
    assert [stale.matches(led(VIP, 53, port)) for port in (A, B)] == [True, False]
    assert [stale.matches(led(NODE, 30053, port)) for port in (A, B)] == [True, False]


def test_a_portal_that_is_gone() -> None:
    stale = after([], [dns(serve(A))])
    assert stale.matches(led(VIP, 53, A))
    assert stale.matches(led(NODE, 30053, A))
    assert not stale.matches(untranslated(VIP, 53)), "whose it is now we do not know"
    assert not stale.matches(Entry(VIP, 53, POD, 53))


@pytest.mark.parametrize("refusal", [REJECT, DROP, Target(Verdict.REJECT, A)])
def test_a_portal_that_is_refused(refusal: Target) -> None:
    stale = after([dns(refusal)])
    assert stale.matches(led(VIP, 53, A))
    assert stale.matches(untranslated(VIP, 53))
    assert stale.matches(Entry(NODE, 30053, POD, 53))


def test_each_class_of_traffic_has_its_port() -> None:
    stale = after([dns(serve(A), serve(B), serve(A))])
    assert not stale.matches(led(VIP, 53, A))
    assert stale.matches(led(VIP, 53, B))
    assert not stale.matches(led(LB, 53, A))
    assert not stale.matches(led(LB, 53, B))


def test_external_traffic_that_moved_to_a_listener_of_its_own() -> None:
    together, apart = dns(serve(A)), dns(serve(A), serve(B), serve(A))
    stale = after([apart], [together])
    assert stale.matches(led(LB, 53, A)), "whether its client is on this node is not to be seen"
    assert not stale.matches(led(VIP, 53, A))
    assert not after([apart], [apart]).matches(led(LB, 53, A)), "only once"
    assert after([together], [apart]).matches(led(LB, 53, B))
    assert not after([together], [apart]).matches(led(LB, 53, A))


def test_external_traffic_that_is_dropped_now() -> None:
    stale = after([dns(serve(A), DROP, serve(A))], [dns(serve(A))])
    assert stale.matches(led(LB, 53, A))
    assert stale.matches(led(NODE, 30053, A))
    assert not stale.matches(led(VIP, 53, A))


def test_an_address_comes_before_a_node_port() -> None:
    everywhere = dns(serve(A), portals=[Portal(PortalKind.NODE_PORT, "", 30053)])
    here = dns(serve(B), portals=[Portal(PortalKind.EXTERNAL_IP, NODE, 30053)])
    assert [after([everywhere, here]).matches(led(NODE, 30053, port)) for port in (A, B)] == [True, False]
    assert after([everywhere], [everywhere, here]).matches(led(NODE, 30053, B))
    assert not after([everywhere], [everywhere, here]).matches(led(NODE, 30053, A))


def test_a_node_port_on_one_address() -> None:
    stale = after([dns(serve(A), portals=[Portal(PortalKind.NODE_PORT, NODE, 30053)])])
    assert stale.matches(untranslated(NODE, 30053))
    assert not stale.matches(led(NODE, 30053, A))


def test_each_protocol_has_portals_of_its_own() -> None:
    tcp = dns(serve(A), protocol=Protocol.TCP)
    assert not after([tcp]).matches(untranslated(VIP, 53))
    assert after([tcp]).matches(structs.replace(untranslated(VIP, 53), protocol=Protocol.TCP))
    assert after([tcp, dns(serve(B))]).matches(led(VIP, 53, A))


def test_only_what_may_have_become_stale_is_to_be_looked_for() -> None:
    targets, udp, tcp = PortalTargets(), dns(serve(A)), dns(serve(B), protocol=Protocol.TCP)
    targets.change((), [udp])
    assert targets.concerned == {Protocol.UDP}
    targets.change((), [tcp])
    assert targets.concerned == {Protocol.UDP, Protocol.TCP}
    taken(targets)
    assert targets.concerned == frozenset()
    targets.change([udp], [udp])
    assert targets.concerned == frozenset()
    targets.change([udp], [dns(REJECT)])
    assert targets.concerned == {Protocol.UDP}
    taken(targets)
    targets.repair()
    assert targets.concerned == {Protocol.UDP, Protocol.TCP}
    targets.change([tcp], [])
    targets.repair()
    assert targets.concerned == {Protocol.UDP, Protocol.TCP}, "and the portals that are gone"
    targets.change([dns(REJECT)], [])
    taken(targets)
    targets.repair()
    assert targets.concerned == frozenset(), "there is nothing to be led to"


def test_several_changes_are_looked_for_together() -> None:
    targets, one, other, third = PortalTargets(), dns(serve(A)), dns(serve(B)), dns(serve(C))
    targets.change((), [one])
    taken(targets)
    targets.change([one], [other])
    targets.change([other], [third])
    stale = taken(targets)
    assert [stale.matches(led(VIP, 53, port)) for port in (A, B, C)] == [True, True, False]
    targets.change([third], [])
    targets.change([], [third])
    stale = taken(targets)
    assert not stale.matches(led(VIP, 53, C)), "it was away for less time than it took to notice"


PORTS = st.integers(1, 3)
LEADS = st.one_of(st.sampled_from([REJECT, DROP]), PORTS.map(serve))
KINDS = st.sampled_from(PortalKind)
PORTALS = st.builds(
    lambda kind, ip, port: Portal(kind, "" if kind is PortalKind.NODE_PORT else ip, port),
    KINDS,
    st.sampled_from([VIP, LB, NODE]),
    PORTS,
)
BINDINGS = st.lists(
    st.builds(
        lambda leads, portals: dns(*leads, portals=portals),
        st.tuples(LEADS, LEADS, LEADS),
        st.lists(PORTALS, max_size=3),
    ),
    max_size=4,
)
ENTRIES = st.builds(
    Entry, st.sampled_from([VIP, LB, NODE, FOREIGN]), PORTS, st.sampled_from([VIP, LB, NODE, POD]), PORTS
)


def portal_of(entry: Entry, bindings: Iterable[PortalBinding]) -> tuple[int, int] | None:
    """Where its first datagram would be led by the rules of `bindings`."""
    leads = portal_targets(bindings)
    any_address = leads.get((entry.protocol, "", entry.port)) if entry.destination_local else None
    return leads.get((entry.protocol, entry.destination, entry.port), any_address)


@given(BINDINGS, ENTRIES)
def test_once_nothing_changes_right_entries_are_those_that_rules_would_make(
    now: list[PortalBinding], entry: Entry
) -> None:
    leads = portal_of(entry, now)
    is_right = leads is None or (entry.reply_local and entry.reply_port in leads)
    assert after(now, now).matches(entry) == (not is_right)
    assert after(now).matches(entry) == (not is_right)


@given(BINDINGS, BINDINGS, ENTRIES)
def test_what_was_before_only_adds_to_what_goes(
    before: list[PortalBinding], now: list[PortalBinding], entry: Entry
) -> None:
    if after(now).matches(entry):
        assert after(now, before).matches(entry)
    elif after(now, before).matches(entry):
        assert entry.reply_local
        assert any(entry.reply_port in leads for leads in portal_targets(before).values())
        assert portal_targets(before) != portal_targets(now)


@given(BINDINGS, BINDINGS, ENTRIES)
def test_no_entry_keeps_leading_where_no_portal_leads_any_more(
    before: list[PortalBinding], now: list[PortalBinding], entry: Entry
) -> None:
    led_by, leads = portal_of(entry, before), portal_of(entry, now)
    if (
        entry.reply_local
        and led_by is not None
        and entry.reply_port in led_by
        and entry.reply_port not in (leads or ())
    ):
        assert after(now, before).matches(entry)
