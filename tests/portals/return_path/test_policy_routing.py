"""Rules and routes of policy routing, in the kernel."""

from functools import partial

import pytest

from tests.portals.conftest import Network
from userproxy.addresses import IPFamily
from userproxy.portals.return_path import policy_routing
from userproxy.portals.return_path.marks import DEFAULT, Mark
from userproxy.portals.return_path.policy_routing import TABLES, Rule, free_table, wanted_rules

FAMILIES = pytest.mark.parametrize("family", IPFamily)
TABLE = TABLES[3]


def option(family: IPFamily) -> str:
    return "-4" if family is IPFamily.IPV4 else "-6"


def made(network: Network, family: IPFamily, mark: Mark = DEFAULT) -> None:
    network.run(partial(policy_routing.make_stand, family, mark, TABLE))


def stands(network: Network, family: IPFamily) -> bool:
    return network.run(partial(policy_routing.stands, family, DEFAULT, TABLE))


@FAMILIES
def test_they_stand_once_made(network: Network, family: IPFamily) -> None:
    assert not stands(network, family)
    made(network, family)
    made(network, family)
    assert stands(network, family)
    rules = network.shell("ip", option(family), "rule")
    assert f"5:\tfrom all fwmark 0x1000/0x1000 lookup {TABLE} proto 117" in rules
    assert "4:\tfrom all fwmark 0x1000/0x1000 iif lo goto 6 proto 117" in rules
    assert "local default dev lo" in network.shell("ip", option(family), "route", "show", "table", str(TABLE))


@FAMILIES
@pytest.mark.parametrize(
    "damage",
    [
        "rule del pref 4",
        "rule del pref 5",
        "rule del pref 6",
        f"route flush table {TABLE}",
        "rule add pref 7 fwmark 7 lookup 9 protocol 117",
    ],
)
def test_what_others_change_is_found_and_repaired(network: Network, family: IPFamily, damage: str) -> None:
    made(network, family)
    network.shell("ip", option(family), *damage.split())
    assert not stands(network, family)
    made(network, family)
    assert stands(network, family)


@FAMILIES
def test_what_an_earlier_process_made_for_another_mark_goes(network: Network, family: IPFamily) -> None:
    network.run(partial(policy_routing.make_stand, family, Mark(0x500, 0xF00), TABLES[0]))
    made(network, family)
    assert stands(network, family)
    assert network.run(partial(policy_routing.local_defaults, family)) == {TABLE: True}


@FAMILIES
def test_all_of_ours_goes_and_nothing_of_others(network: Network, family: IPFamily) -> None:
    network.shell("ip", option(family), *["rule", "add", "pref", "5", "fwmark", "1/1", "table", "9"])
    before = network.shell("ip", option(family), "rule")
    made(network, family)
    assert network.run(partial(policy_routing.remove, family)) == 4
    assert network.run(partial(policy_routing.remove, family)) == 0
    assert network.shell("ip", option(family), "rule") == before
    assert network.run(partial(policy_routing.local_defaults, family)) == {}


def test_the_first_table_that_nobody_else_uses_is_taken() -> None:
    ours = list(wanted_rules(DEFAULT, TABLES[0]))
    assert free_table([], {}) == TABLES[0]
    assert free_table(ours, {TABLES[0]: True}) == TABLES[0]
    assert free_table([Rule(10, 1, table=TABLES[0])], {TABLES[1]: False}) == TABLES[2]
    assert free_table([], dict.fromkeys(TABLES, False)) is None
