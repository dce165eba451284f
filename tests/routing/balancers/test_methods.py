"""What holds for every balancer."""

import subprocess
import sys
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.routing.balancers.pools import CLIENTS, bounds, endpoints, pool, shares
from userproxy.model import BalancerName, Endpoint
from userproxy.routing.balancers.interface import Method
from userproxy.routing.balancers.methods import METHODS

NAMES = sorted(METHODS)
BY_CLIENT = ["maglev", "source-hash"]
WEIGHTED = [name for name in NAMES if name != "first-available"]

pools = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), min_size=1, max_size=12, unique_by=lambda e: e[0])


def made(name: str, pairs: list[tuple[int, int]]) -> tuple[list[Endpoint], Method]:
    its = [Endpoint(f"10.0.0.{number}", 80) for number, _ in pairs]
    return its, METHODS[name](pool(its, [weight for _, weight in pairs]))


def test_there_is_one_for_each_name() -> None:
    assert set(METHODS) == set(BalancerName)


@pytest.mark.parametrize("name", NAMES)
@given(pairs=pools, steps=st.lists(st.tuples(st.sampled_from(CLIENTS[:9]), st.integers(0, 2**40)), max_size=12))
def test_what_is_asked_for_beforehand_is_what_comes(
    name: str, pairs: list[tuple[int, int]], steps: list[tuple[str, int]]
) -> None:
    its, method = made(name, pairs)
    for client, seed in steps:
        avoided = Random(seed).sample(its, seed % len(its))
        asked, reason = method.peek(client, 0.0, avoided)
        assert method.peek(client, 0.0, avoided) == (asked, reason)
        assert reason
        assert asked == method.choose(client, 0.0, avoided)
        assert asked not in avoided


@pytest.mark.parametrize("name", NAMES)
@given(pairs=pools)
def test_a_connection_gets_every_endpoint_before_any_twice(name: str, pairs: list[tuple[int, int]]) -> None:
    its, method = made(name, pairs)
    tried: tuple[Endpoint, ...] = ()
    while len(tried) < len(its):
        tried += (method.choose("10.0.0.1", 0.0, tried),)
    assert set(tried) == set(its)


@pytest.mark.parametrize("name", NAMES)
@given(pairs=pools, before=st.integers(0, 9))
def test_another_process_goes_on_with_the_same_endpoint(name: str, pairs: list[tuple[int, int]], before: int) -> None:
    _, method = made(name, pairs)
    for client in CLIENTS[:before]:
        method.choose(client, 0.0)
    _, other = made(name, pairs)
    other.resume(method.turn)
    if name not in ("random", "least-connections"):  # by chance, and by connections that are not in this test
        assert [other.choose(client, 0.0) for client in CLIENTS[:9]] == [
            method.choose(client, 0.0) for client in CLIENTS[:9]
        ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("turn", [(), (7,), (1, 2, 3, 4, 5)])
def test_a_turn_of_other_endpoints_does_no_harm(name: str, turn: tuple[int, ...]) -> None:
    its, method = made(name, [(1, 1), (2, 3), (3, 1)])
    method.resume(turn)
    assert method.choose("10.0.0.1", 0.0) in its


@pytest.mark.parametrize("name", WEIGHTED)
def test_shares_are_even_where_weights_are(name: str) -> None:
    its = endpoints(5)
    found = shares(METHODS[name](pool(its, [4] * 5)))
    low, high = bounds(len(CLIENTS), 1, 5)
    assert set(found) == set(its)
    assert all(low <= count <= high for count in found.values()), found


@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize("weights", [[1, 3], [1, 2, 3, 4], [10, 1, 1], [1000, 500, 500]], ids=str)
def test_shares_are_those_of_the_weights(name: str, weights: list[int]) -> None:
    its = endpoints(len(weights))
    found = shares(METHODS[name](pool(its, weights)))
    for endpoint, weight in zip(its, weights, strict=True):
        low, high = bounds(len(CLIENTS), weight, sum(weights))
        assert low <= found[endpoint] <= high, (found, endpoint)


@pytest.mark.parametrize("name", WEIGHTED)
def test_the_clients_of_one_that_is_avoided_are_spread(name: str) -> None:
    """Not all of them go to one other endpoint."""
    its = endpoints(5)
    method = METHODS[name](pool(its))
    found = Counter(method.choose(client, 0.0, (its[2],)) for client in CLIENTS)
    low, high = bounds(len(CLIENTS), 1, 4)
    assert all(low <= found[each] <= high for each in its if each is not its[2]), found


@pytest.mark.parametrize("name", [*BY_CLIENT, "first-available"])
def test_the_order_of_endpoints_makes_no_difference(name: str) -> None:
    its, weights = endpoints(7), [1, 2, 1, 3, 1, 1, 2]
    pairs = list(zip(its, weights, strict=True))
    Random(3).shuffle(pairs)
    one = METHODS[name](pool(its, weights, seed=1))
    other = METHODS[name](pool([each for each, _ in pairs], [weight for _, weight in pairs], seed=2))
    assert all(one.choose(client, 0.0) == other.choose(client, 0.0) for client in CLIENTS)


ELSEWHERE = """
import zlib
from tests.routing.balancers.pools import CLIENTS, endpoints, pool
from userproxy.routing.balancers.methods import METHODS
for name, weights in (("maglev", ()), ("maglev", (1, 2, 3)), ("source-hash", ()), ("source-hash", (1, 2, 3))):
    method = METHODS[name](pool(endpoints(3), weights))
    print(zlib.crc32(" ".join(str(method.choose(client, 0.0)) for client in CLIENTS).encode()))
"""


def test_every_node_chooses_the_same_whatever_salt_its_python_has() -> None:
    """The figures are written down: a change would move clients while nodes run different releases."""
    said = {
        subprocess.run(
            [sys.executable, "-c", ELSEWHERE], check=True, capture_output=True, text=True, env={"PYTHONHASHSEED": salt}
        ).stdout
        for salt in ("1", "2")
    }
    assert len(said) == 1
    assert said.pop().split() == ["1834724201", "2947588635", "1653371723", "4212084666"]
