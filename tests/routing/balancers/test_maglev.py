"""Maglev: the table, and whom an endpoint that leaves moves."""

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.routing.balancers.pools import CLIENTS, endpoints, moved, pool
from userproxy.model import Endpoint
from userproxy.routing.balancers.maglev import MOST_IN_SMALL_TABLE, SIZES, Maglev, filled


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
