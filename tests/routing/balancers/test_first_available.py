"""First available: one for all, by weight and address."""

import pytest

from tests.routing.balancers.pools import CLIENTS, pool
from userproxy.model import Endpoint
from userproxy.routing.balancers.first_available import FirstAvailable

NINE, TEN, HIGH_PORT = Endpoint("10.0.0.9", 80), Endpoint("10.0.0.10", 80), Endpoint("10.0.0.9", 81)


def test_all_clients_get_the_one_with_the_lowest_address_and_port() -> None:
    method = FirstAvailable(pool([TEN, HIGH_PORT, NINE]))
    assert {method.choose(client, 0.0) for client in CLIENTS} == {NINE}


@pytest.mark.parametrize(("avoided", "next_one"), [((NINE,), HIGH_PORT), ((NINE, HIGH_PORT), TEN)])
def test_others_come_in_their_order(avoided: tuple[Endpoint, ...], next_one: Endpoint) -> None:
    assert FirstAvailable(pool([TEN, HIGH_PORT, NINE])).choose("c", 0.0, avoided) == next_one


def test_a_weight_is_a_rank() -> None:
    assert FirstAvailable(pool([NINE, TEN], [1, 2])).choose("c", 0.0) == TEN


def test_addresses_of_both_kinds_are_numbers() -> None:
    one, other = Endpoint("2001:db8::9", 80), Endpoint("2001:db8::10", 80)
    assert FirstAvailable(pool([other, one])).choose("c", 0.0) == one
