"""Source hash: whom an endpoint that comes, goes or is weighted otherwise moves."""

import pytest

from tests.routing.balancers.pools import CLIENTS, bounds, endpoints, moved, pool
from userproxy.routing.balancers.hashing import hash64
from userproxy.routing.balancers.source_hash import MANY, MOST_REMEMBERED, SourceHash, _score


@pytest.mark.parametrize("weights", [[1] * 6, [1, 2, 3, 4, 5, 6]], ids=str)
@pytest.mark.parametrize("gone", range(6))
def test_an_endpoint_that_leaves_moves_only_its_own_clients(weights: list[int], gone: int) -> None:
    its = endpoints(6)
    before = SourceHash(pool(its, weights))
    rest = [each for each in its if each is not its[gone]]
    after = SourceHash(pool(rest, [weight for number, weight in enumerate(weights) if number != gone]))
    assert moved(lambda c: before.choose(c, 0.0), lambda c: after.choose(c, 0.0), its[gone]) == 0


def test_who_cannot_reach_theirs_gets_the_one_that_would_be_theirs_without_it() -> None:
    its = endpoints(5)
    whole, rest = SourceHash(pool(its)), SourceHash(pool(its[1:]))
    assert all(whole.choose(client, 0.0, (its[0],)) == rest.choose(client, 0.0) for client in CLIENTS)


def test_a_heavier_endpoint_takes_clients_and_moves_no_others() -> None:
    its = endpoints(4)
    before, after = SourceHash(pool(its, [1, 1, 1, 2])), SourceHash(pool(its, [2, 1, 1, 2]))
    changed = [client for client in CLIENTS if before.choose(client, 0.0) != after.choose(client, 0.0)]
    assert {after.choose(client, 0.0) for client in changed} == {its[0]}
    low, high = bounds(len(CLIENTS), 2 * 5 - 6, 5 * 6)  # from a fifth to a third
    assert low <= len(changed) <= high


def test_equal_weights_are_as_none() -> None:
    its = endpoints(4)
    one, other = SourceHash(pool(its)), SourceHash(pool(its, [5, 5, 5, 5]))
    assert all(one.choose(client, 0.0) == other.choose(client, 0.0) for client in CLIENTS)


def test_the_highest_of_all_hashes_has_a_score_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may name clients and endpoints finds such a pair in an afternoon; rounded, its part of the whole is 1."""
    monkeypatch.setattr("userproxy.routing.balancers.source_hash.mixed", lambda _: (1 << 64) - 1)
    its = endpoints(2)
    assert SourceHash(pool(its, [1, 2])).choose("10.0.0.1", 0.0) == its[1]


@pytest.mark.parametrize(
    "weights",
    [[1], [1, 2, 3], list(range(1, 30)), list(range(1000, 900, -1)), [1] * 40 + list(range(1, 57))],
    ids=["even", "three weights", "29 weights", "all different", "many light ones"],
)
def test_many_are_chosen_from_as_few_are(weights: list[int]) -> None:
    """All scores at once, and what is remembered, come to the same as one score after the other."""
    its = endpoints(3 * MANY)
    method = SourceHash(pool(its, [weights[number % len(weights)] for number in range(len(its))]))
    for client in CLIENTS[::40]:
        one_by_one = method._highest(hash64(client), ())
        assert method.choose(client, 0.0) == one_by_one
        assert method.choose(client, 0.0) == one_by_one, "it is remembered"
        away = (one_by_one, *its[: len(its) // 2])
        assert method.choose(client, 0.0, away) == method._highest(hash64(client), away)


@pytest.mark.parametrize("weights", [[1], [1, 2, 3]], ids=str)
def test_one_of_many_that_leaves_moves_only_its_own_clients(weights: list[int]) -> None:
    its = endpoints(2 * MANY)
    its_weights = [weights[number % len(weights)] for number in range(len(its))]
    before = SourceHash(pool(its, its_weights))
    for gone in (0, 17, len(its) - 1):
        after = SourceHash(pool(its[:gone] + its[gone + 1 :], its_weights[:gone] + its_weights[gone + 1 :]))
        assert moved(lambda c: before.choose(c, 0.0), lambda c, after=after: after.choose(c, 0.0), its[gone]) == 0  # type: ignore[misc]


def test_so_many_clients_and_no_more_are_remembered() -> None:
    method = SourceHash(pool(endpoints(MANY)))
    for number in range(MOST_REMEMBERED + 10):
        method.choose(f"10.{number >> 8}.{number & 255}.1", 0.0)
    assert len(method._remembered) == MOST_REMEMBERED


def test_of_thousands_that_all_weigh_differently_few_scores_are_worked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    its = endpoints(5000)
    method = SourceHash(pool(its, [1 + number % 1000 for number in range(len(its))]))
    expected = [method._highest(hash64(client), ()) for client in CLIENTS[:20]]
    scores: list[float] = []

    def counted(number: int, weight: int) -> float:
        scores.append(_score(number, weight))
        return scores[-1]

    monkeypatch.setattr("userproxy.routing.balancers.source_hash._score", counted)
    assert [method.choose(client, 0.0) for client in CLIENTS[:20]] == expected
    assert len(scores) < 20 * 100
