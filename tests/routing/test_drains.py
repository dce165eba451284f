"""What a drain makes of a snapshot."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from userproxy.model import Endpoint, IPFamily, ListenerName, Protocol, ServicePortName, Snapshot, Verdict
from userproxy.routing.drains import with_drains

NAME = ListenerName(ServicePortName("default", "web", "http", Protocol.TCP))
A, B, C = (Endpoint(f"10.0.0.{number}", 80) for number in (1, 2, 3))
SIX = Endpoint("fd00::1", 80)

some = st.lists(st.sampled_from([A, B, C]), unique=True)


def serving(*endpoints: Endpoint, known: tuple[Endpoint, ...] | None = None) -> Snapshot:
    nodes = tuple(f"node-{endpoint.ip}" for endpoint in endpoints)
    weights = tuple(int(endpoint.ip[-1]) for endpoint in endpoints)
    return Snapshot(NAME, Verdict.SERVE, endpoints, known=known, nodes=nodes, weights=weights)


@given(some, some, some, st.booleans())
def test_a_drained_endpoint_gets_nobody_while_another_is_left(
    endpoints: list[Endpoint],
    drained: list[Endpoint],
    leaving: list[Endpoint],
    closes: bool,
) -> None:
    snapshot = serving(*endpoints, known=tuple(endpoints) if closes else None)
    found = with_drains(snapshot, drained, leaving)
    left = [each for each in endpoints if each not in drained]
    assert found.endpoints == tuple(left or endpoints)
    assert found.nodes == tuple(f"node-{each.ip}" for each in found.endpoints)
    assert found.weights == tuple(int(each.ip[-1]) for each in found.endpoints)
    assert not set(found.draining) & set(found.endpoints)
    kept = set(drained) & set(endpoints) if left else set()
    assert set(found.draining) == kept | (set(leaving) - set(endpoints))
    assert (found.known is None) is (not closes)
    if found.known is not None:
        assert set(found.known) == set(endpoints) | set(leaving)
    assert structs.replace(found, endpoints=(), nodes=(), weights=(), draining=(), known=None) == structs.replace(
        snapshot, endpoints=(), nodes=(), weights=(), known=None
    )


def test_nothing_changes_where_nobody_is_served_or_nothing_is_drained() -> None:
    refusing = Snapshot(NAME, Verdict.REJECT)
    assert with_drains(refusing, {A}) is refusing
    snapshot = serving(A, B)
    assert with_drains(snapshot, {C}) is snapshot
    assert with_drains(snapshot, {A, B}) is snapshot


def test_nodes_that_are_not_known_stay_so() -> None:
    snapshot = Snapshot(NAME, Verdict.SERVE, (A, B))
    assert with_drains(snapshot, {A}) == Snapshot(NAME, Verdict.SERVE, (B,), draining=(A,))


def test_an_endpoint_of_the_other_family_is_none_of_this_listener() -> None:
    snapshot = serving(A, known=(A,))
    assert with_drains(snapshot, (), [SIX]) is snapshot
    other = structs.replace(snapshot, listener=structs.replace(NAME, family=IPFamily.IPV6), endpoints=(), nodes=())
    assert with_drains(other, (), [SIX, B]).draining == (SIX,)


def test_who_leaves_stays_known_where_nobody_is_served_any_more() -> None:
    gone = Snapshot(NAME, Verdict.REJECT, known=())
    assert with_drains(gone, (), [A]) == Snapshot(NAME, Verdict.REJECT, known=(A,), draining=(A,))
