"""Round-robin, even and weighted."""

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from msgspec import msgpack

from tests.routing.balancers.pools import endpoints, pool
from userproxy.routing.balancers.round_robin import RoundRobin, WeightedRoundRobin, round_robin


def test_even_ones_need_no_queue() -> None:
    assert isinstance(round_robin(pool(endpoints(3), [7, 7, 7])), RoundRobin)
    assert isinstance(round_robin(pool(endpoints(3), [7, 7, 8])), WeightedRoundRobin)


def test_it_goes_by_the_order_of_the_pool() -> None:
    its = endpoints(3)
    method = round_robin(pool(its))
    assert [method.choose("c", 0.0) for _ in range(7)] == [*its, *its, its[0]]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 3))
def test_of_as_many_as_there_are_weights_each_gets_exactly_its_own(weights: list[int], rounds: int) -> None:
    its = endpoints(len(weights))
    method = WeightedRoundRobin(pool(its, weights))
    found = Counter(method.choose("c", 0.0) for _ in range(sum(weights) * rounds))
    assert [found[each] for each in its] == [weight * rounds for weight in weights]


def test_turns_of_a_heavy_one_are_spread() -> None:
    heavy, *light = its = endpoints(4)
    method = WeightedRoundRobin(pool(its, [3, 1, 1, 1]))
    order = [method.choose("c", 0.0) for _ in range(12)]
    assert max(order[n : n + 4].count(heavy) for n in range(9)) <= 3
    assert all(order.count(each) == 2 for each in light)


def test_one_that_was_passed_over_does_not_make_up_for_it() -> None:
    away, *others = its = endpoints(3)
    method = WeightedRoundRobin(pool(its, [4, 4, 5]))
    for _ in range(100):
        assert method.choose("c", 0.0, (away,)) in others
    found = Counter(method.choose("c", 0.0) for _ in range(13))
    assert 3 <= found[away] <= 5


def test_where_it_is_can_be_told_after_however_many_connections() -> None:
    """Turns go to other processes as numbers of 64 bits: those of 2**24 connections of weight 1 had more."""
    its = endpoints(3)
    method, other = (WeightedRoundRobin(pool(its, [3, 1, 2])) for _ in range(2))
    method.resume(tuple(each + (1 << 64) for each in method.turn))
    for _ in range(5):
        method.choose("c", 0.0)
    turn = msgpack.decode(msgpack.encode(method.turn), type=tuple[int, ...])
    other.resume(turn)
    assert [other.choose("c", 0.0) for _ in range(12)] == [method.choose("c", 0.0) for _ in range(12)]


@given(
    st.lists(st.integers(1, 30), min_size=2, max_size=8),
    st.lists(st.integers(0, 2), min_size=1, max_size=150),
    st.randoms(use_true_random=False),
)
def test_several_processes_are_off_the_weights_by_one_connection_each(
    weights: list[int], clients: list[int], random: Random
) -> None:
    """Each has an order and a turn of its own. At any time counts divided by weights are the same but for that."""
    its = endpoints(len(weights))
    weight = dict(zip(its, weights, strict=True))
    processes = []
    for _ in range(3):
        order = random.sample(its, len(its))
        processes.append(round_robin(pool(order, [weight[each] for each in order])))
    counts = Counter(processes[place].choose("c", 0.0) for place in clients)
    highest = min((counts[each] + 3) / weight[each] for each in its)
    assert all((counts[each] - 3) / weight[each] <= highest for each in its)
