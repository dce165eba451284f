"""Random choice."""

from tests.routing.balancers.pools import endpoints, pool
from userproxy.routing.balancers.random_choice import RandomChoice


def test_what_comes_does_not_depend_on_what_came() -> None:
    """Of pairs of choices a fourth are of each kind: turns would make half of them the same two."""
    its = endpoints(2)
    method = RandomChoice(pool(its, seed=7))
    order = [method.choose("c", 0.0) for _ in range(4000)]
    same = sum(one is other for one, other in zip(order[::2], order[1::2], strict=True))
    assert 800 <= same <= 1200


def test_nodes_choose_differently() -> None:
    its = endpoints(9)
    one, other = (RandomChoice(pool(its, seed=seed)) for seed in (1, 2))
    assert [one.choose("c", 0.0) for _ in range(20)] != [other.choose("c", 0.0) for _ in range(20)]
