"""What endpoints have to do at several places is added up, as it is by then."""

from tests.routing.balancers.pools import Busy, endpoints
from userproxy.routing.balancers.interface import Load
from userproxy.routing.balancers.loads import of_all

A, B, C = endpoints(3)


def test_of_several_places_it_is_the_sum_of_those_that_know_an_endpoint() -> None:
    first: dict[object, Load] = {}
    second = {A: Busy(1)}
    loads = of_all([first, second])  # type: ignore[list-item]
    assert loads.get(B) is None
    assert loads[A] is second[A]
    first[A], first[B] = Busy(2), Busy(5)
    assert (loads[A].active, loads[B].active) == (3, 5)
    assert (loads[A].total, loads[A].bytes_down) == tuple(
        getattr(first[A], name) + getattr(second[A], name) for name in ("total", "bytes_down")
    )
    assert (set(loads), len(loads)) == ({A, B}, 2)
    assert C not in loads


def test_one_place_is_looked_at_itself() -> None:
    only = {A: Busy(1)}
    assert of_all([only]) is only
