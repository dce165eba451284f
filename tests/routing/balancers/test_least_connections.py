"""Least connections: by what endpoints have to do, and what is on its way to them."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tests.routing.balancers.pools import Busy, endpoints, pool
from userproxy.model import Endpoint
from userproxy.routing.balancers.least_connections import PENDING_SECONDS, LeastConnections

A, B, C = endpoints(3)


def test_whoever_has_fewest_is_next() -> None:
    method = LeastConnections(pool([A, B, C], loads={A: Busy(3), B: Busy(1), C: Busy(2)}))
    assert method.choose("c", 0.0) == B


def test_one_that_has_had_nothing_to_do_has_none() -> None:
    assert LeastConnections(pool([A, B], loads={A: Busy(1)})).choose("c", 0.0) == B


def test_clients_who_come_at_once_are_spread_before_any_is_connected() -> None:
    loads = {A: Busy(5, 100), B: Busy(0, 100)}
    method = LeastConnections(pool([A, B], loads=loads))
    assert Counter(method.choose("c", 0.0) for _ in range(15)) == {A: 5, B: 10}


def test_a_choice_that_has_become_a_connection_counts_once() -> None:
    loads = {A: Busy(), B: Busy()}
    method = LeastConnections(pool([A, B], loads=loads))
    for _ in range(10):
        load = loads[method.choose("c", 0.0)]
        load.active, load.total = load.active + 1, load.total + 1
    assert (loads[A].active, loads[B].active) == (5, 5)


def test_a_dial_that_came_to_nothing_is_forgotten() -> None:
    method = LeastConnections(pool([A, B], loads={A: Busy(2), B: Busy(0)}))
    assert [method.choose("c", 0.0) for _ in range(2)] == [B, B]
    assert method.peek("c", PENDING_SECONDS - 0.1)[1] == "it has the fewest connections, 2"
    assert method.peek("c", PENDING_SECONDS) == (B, "it has the fewest connections, 0")


def test_those_who_have_as_few_get_their_turns() -> None:
    loads = {A: Busy(), B: Busy(), C: Busy()}
    method = LeastConnections(pool([A, B, C], loads=loads))
    order = []
    for _ in range(6):
        order.append(method.choose("c", 0.0))
        loads[order[-1]].total += 1  # a short connection, which is over
    assert order == [A, B, C, A, B, C]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 20)), min_size=1, max_size=6), st.integers(1, 60))
def test_nobody_is_left_who_could_have_taken_more(pairs: list[tuple[int, int]], clients: int) -> None:
    """After any number of connections that stay: to move one elsewhere would not make it less for its weight."""
    its = endpoints(len(pairs))
    loads = {each: Busy(0) for each in its}
    weights = {each: weight for each, (weight, _) in zip(its, pairs, strict=True)}
    method = LeastConnections(pool(its, list(weights.values()), loads=loads))
    for _ in range(clients):
        chosen: Endpoint = method.choose("c", 0.0)
        loads[chosen].active += 1
        loads[chosen].total += 1
    most = max(loads[each].active / weights[each] for each in its)
    assert all((loads[each].active + 1) / weights[each] >= most for each in its)
