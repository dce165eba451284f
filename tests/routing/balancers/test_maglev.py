"""Maglev: the table, and whom an endpoint that leaves moves."""

from collections import Counter
from collections.abc import Callable, Iterator
from random import Random

import pytest
from msgspec import structs

from tests.routing.balancers.pools import CLIENTS, endpoints, moved, pool
from userproxy.model import BalancerName, Endpoint, ListenerName, Protocol, ServicePortName, Snapshot, Verdict
from userproxy.routing.balancer import Balancer
from userproxy.routing.balancers.board import BalancerBoard
from userproxy.routing.balancers.maglev import MOST_IN_SMALL_TABLE, SIZES, Maglev, filled

NAME = ListenerName(ServicePortName("default", "web", "http", Protocol.TCP))


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_prime(size: int) -> None:
    assert all(size % divisor for divisor in range(2, int(size**0.5) + 1))


@pytest.mark.parametrize(("count", "size"), [(1, 11), (3, 1009), (7, 4093), (128, 4093), (200, 16381)])
def test_every_endpoint_has_as_many_entries_give_or_take_one(count: int, size: int) -> None:
    table = filled([(each, 1) for each in endpoints(count)], size)
    entries = Counter(table)
    assert len(table) == size
    assert set(entries.values()) <= {size // count, size // count + 1}


@pytest.mark.parametrize("weights", [[1, 3], [5, 1, 1], [1, 2, 3, 4]], ids=str)
def test_entries_go_by_the_weights(weights: list[int]) -> None:
    its = endpoints(len(weights))
    entries = Counter(filled(list(zip(its, weights, strict=True)), 4093))
    for each, weight in zip(its, weights, strict=True):
        assert abs(entries[each] - 4093 * weight / sum(weights)) <= 2


@pytest.mark.parametrize("count", [3, 10, 40])
def test_an_endpoint_that_leaves_moves_its_own_clients_and_few_others(count: int) -> None:
    """The minimum are its own, a share of 1/count. Of the others the paper has some percent of the table moved."""
    its = endpoints(count)
    before = Maglev(pool(its))
    for gone in its[:: max(1, count // 3)]:
        after = Maglev(pool([each for each in its if each is not gone]))
        disturbed = moved(lambda c: before.choose(c, 0.0), lambda c, after=after: after.choose(c, 0.0), gone)  # type: ignore[misc]
        assert disturbed <= len(CLIENTS) * 0.08


def test_more_endpoints_than_entries_are_all_of_use() -> None:
    its = [Endpoint("10.0.0.1", port) for port in range(1, 40)]
    method = Maglev(pool(its))
    method._table = filled([(each, 1) for each in its], 11)
    assert method.choose("c", 0.0, its[:-1]) == its[-1]


def test_the_larger_table_is_for_many() -> None:
    for count, size in ((MOST_IN_SMALL_TABLE, SIZES[0]), (MOST_IN_SMALL_TABLE + 1, SIZES[1])):
        method = Maglev(pool(endpoints(count)))
        assert f"of {size}," in method.peek("10.0.0.1", 0.0)[1]


def test_unequal_weights_cost_no_more_turns_than_there_are_entries() -> None:
    """A table of a thousand endpoints, one of which weighs a thousand times as much, has 8,000 rounds of turns."""
    its = endpoints(1000)
    pairs = CountedPairs(zip(its, [1000] + [1] * 999, strict=True))
    entries = Counter(filled(pairs, SIZES[1]))
    assert {entries[each] for each in its[1:]} == {8}
    assert entries[its[0]] == SIZES[1] - 999 * 8
    assert pairs.seen <= 20 * len(its)


class CountedPairs(list[tuple[Endpoint, int]]):
    """Endpoints with weights, and how often one of them was looked at in a loop over all."""

    seen = 0

    def __iter__(self) -> Iterator[tuple[Endpoint, int]]:
        for each in super().__iter__():
            self.seen += 1
            yield each


def later_by(its: list[Endpoint], previous: Maglev, waiting: list[Callable[[], bool]]) -> Maglev:
    """Another one that is to be made in the place of `previous`, when its turn comes."""
    return Maglev(structs.replace(pool(its), previous=previous, later=waiting.append))


def test_the_table_before_serves_until_the_next_one_is_made() -> None:
    its, waiting = endpoints(6), list[Callable[[], bool]]()
    before = Maglev(pool(its))
    chosen = {client: before.choose(client, 0.0) for client in CLIENTS}
    after = later_by([*its[1:], *endpoints(8)[6:]], before, waiting)
    for client, endpoint in chosen.items():
        now = after.choose(client, 0.0)
        assert now == endpoint if endpoint != its[0] else now in its[1:]
        assert after.choose(client, 0.0, (now,)) not in {now, its[0]}
    (make,) = waiting
    parts = 1
    while make():
        parts += 1
    assert parts > 5, "each takes a millisecond or two"
    assert not make(), "it is done"
    new = Maglev(pool([*its[1:], *endpoints(8)[6:]]))
    assert all(after.choose(client, 0.0) == new.choose(client, 0.0) for client in CLIENTS)


def test_one_that_nobody_has_asked_yet_leaves_no_table_to_serve_by() -> None:
    waiting: list[Callable[[], bool]] = []
    method = later_by(endpoints(3), Maglev(pool(endpoints(2))), waiting)
    assert not waiting, "nor is one made for nobody"
    assert method.choose("10.0.0.1", 0.0) == Maglev(pool(endpoints(3))).choose("10.0.0.1", 0.0)


def test_a_table_serves_on_through_several_changes() -> None:
    its, waiting = endpoints(5), list[Callable[[], bool]]()
    method = Maglev(pool(its))
    first = {client: method.choose(client, 0.0) for client in CLIENTS[:200]}
    for count in (4, 3):
        method = later_by(its[:count], method, waiting)
    assert all(method.choose(client, 0.0) == each for client, each in first.items() if each in its[:3])
    assert {method.choose(client, 0.0) for client in CLIENTS} == set(its[:3])
    assert len(waiting) == 2


def test_all_others_than_before_are_served_at_once() -> None:
    waiting: list[Callable[[], bool]] = []
    before = Maglev(pool(endpoints(3)))
    before.choose("c", 0.0)
    others = [Endpoint("10.9.9.9", port) for port in (1, 2)]
    method = later_by(others, before, waiting)
    assert method.choose("10.0.0.1", 0.0) in others


def test_a_balancer_has_its_table_made_in_its_turn() -> None:
    waiting: list[tuple[object, Callable[[], bool]]] = []
    balancer = Balancer(Random(1), board=BalancerBoard(lambda whose, make: waiting.append((whose, make))))
    for count in (3, 4, 5):
        balancer.update(Snapshot(NAME, Verdict.SERVE, tuple(endpoints(count)), balancer=BalancerName.MAGLEV))
        balancer.pick("10.0.0.1", 0.0)
    assert [whose for whose, _ in waiting] == [balancer, balancer]
    while waiting[-1][1]():
        pass
    new = Maglev(pool(endpoints(5)))
    assert all(balancer.pick(client, 0.0) == new.choose(client, 0.0) for client in CLIENTS[:500])


def test_a_large_table_is_begun_at_once_and_finished_for_the_first_who_asks() -> None:
    its, waiting = endpoints(MOST_IN_SMALL_TABLE + 1), list[Callable[[], bool]]()
    method = later_by(its, Maglev(pool(its[:3])), waiting)
    (make,) = waiting
    assert make()
    assert make()
    plain = Maglev(pool(its))
    assert all(method.choose(client, 0.0) == plain.choose(client, 0.0) for client in CLIENTS[:300])
    assert not make()


def test_a_table_of_which_less_than_half_is_left_serves_no_longer() -> None:
    """Those who have taken the others' place would get nobody until their table is made, behind those of all others."""
    its, waiting = endpoints(8), list[Callable[[], bool]]()
    before = Maglev(pool(its[:4]))
    before.choose("c", 0.0)
    method = later_by(its[4:], later_by(its[3:7], before, waiting), waiting)
    new = Maglev(pool(its[4:]))
    assert all(method.choose(client, 0.0) == new.choose(client, 0.0) for client in CLIENTS[:300])
