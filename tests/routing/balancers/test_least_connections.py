"""Least connections: by what endpoints have to do, and what is on its way to them."""

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tests.routing.balancers.pools import Busy, endpoints, pool
from userproxy.model import Endpoint
from userproxy.routing.balancers.least_connections import (
    MANY,
    PENDING_SECONDS,
    LeastConnections,
    LeastOfMany,
    least_connections,
)

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


def test_each_is_looked_at_where_they_are_few() -> None:
    assert type(least_connections(pool(endpoints(MANY)))) is LeastConnections
    assert type(least_connections(pool(endpoints(MANY + 1)))) is LeastOfMany


class Looked(dict[Endpoint, Busy]):
    """How often somebody has looked what an endpoint has to do."""

    looks = 0

    def get(self, key: Endpoint, default: object = None) -> Busy | None:  # type: ignore[override]
        self.looks += 1
        return super().get(key)


def test_of_very_many_a_bounded_number_is_looked_at_for_each_connection() -> None:
    its = endpoints(5000)
    loads = Looked({each: Busy(number % 7) for number, each in enumerate(its)})
    method = least_connections(pool(its, loads=loads))
    method.choose("c", 0.0)
    loads.looks = 0
    for number in range(400):
        loads[method.choose("c", float(number))].active += 1
    assert loads.looks < 400 * (MANY + 20)


def test_of_many_the_one_with_fewest_is_next_as_long_as_connections_only_begin() -> None:
    its, random = endpoints(300), Random(5)
    loads = {each: Busy(random.randrange(5)) for each in its}
    weights = {each: random.choice((1, 1, 2, 5)) for each in its}
    method = LeastOfMany(pool(its, list(weights.values()), loads=loads))
    for number in range(1500):
        avoided = its[number % 7 : 40 : 3] if number % 2 else ()
        least = min((loads[each].active + 1) / weights[each] for each in its if each not in avoided)
        announced, _ = method.peek("c", 0.0, avoided)
        chosen = method.choose("c", 0.0, avoided)
        assert chosen == announced
        assert (loads[chosen].active + 1) / weights[chosen] == least
        assert chosen not in avoided
        loads[chosen].active += 1
        loads[chosen].total += 1


def test_of_many_those_who_have_as_few_get_their_turns() -> None:
    its = endpoints(200)
    loads = {each: Busy() for each in its}
    method = LeastOfMany(pool(its, loads=loads))
    order = []
    for _ in range(400):
        order.append(method.choose("c", 0.0))
        loads[order[-1]].total += 1
    assert Counter(order[:200]).most_common(1)[0][1] == Counter(order[200:]).most_common(1)[0][1] == 1


def test_of_many_one_that_has_got_rid_of_connections_is_noticed_soon() -> None:
    its = endpoints(1000)
    loads = {each: Busy(9) for each in its}
    method = LeastOfMany(pool(its, loads=loads))
    for _ in range(5):
        method.choose("c", 0.0)
    loads[its[700]].active = 0
    within = [method.choose("c", 0.0) for _ in range(1000 // MANY + 2)]
    assert its[700] in within
    assert len(method._queue) <= 4 * 1000 + MANY + 1
