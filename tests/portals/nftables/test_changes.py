"""From what there is of the table to what should be."""

import pytest
from msgspec import structs

from tests.portals.examples import cluster_ip_binding, web
from userproxy.model import IPFamily, LocalTraffic
from userproxy.portals.nftables.changes import Repair, creation, element_edits, repair, rewriting, transaction
from userproxy.portals.nftables.elements import Element, claims
from userproxy.portals.nftables.layout import Hook, Layout, layout
from userproxy.portals.nftables.ledger import Edits
from userproxy.portals.nftables.messages import (
    DELETE_ELEMENTS,
    DELETE_RULES,
    DELETE_TABLE,
    NEW_CHAIN,
    NEW_ELEMENTS,
    NEW_RULE,
    NEW_SET,
    NEW_TABLE,
    SetShape,
    set_shape,
)

FAMILY = IPFamily.IPV4
LAYOUT = layout(FAMILY, "0.0.0.0", "192.0.2.10", LocalTraffic(("10.244.0.0/16",)))
ELEMENTS = tuple(element for claim in claims(web(FAMILY), FAMILY, "").values() for element in claim.elements)


def there(wanted: Layout = LAYOUT) -> tuple[dict[str, SetShape], dict[str, Hook | None], dict[str, list[bytes]]]:
    """What a kernel has of a table that is as it should be."""
    return (
        {each.name: set_shape(each) for each in wanted.sets},
        {each.name: each.hook for each in wanted.chains},
        {each.name: list(each.rules) for each in wanted.chains},
    )


def names(needed: Repair) -> tuple[bool, list[str], list[str], list[str]]:
    sets, chains, rules = ([each.name for each in part] for part in (needed.sets, needed.chains, needed.rules))
    return needed.anew, sets, chains, rules


def test_what_is_as_it_should_be_needs_nothing() -> None:
    assert not repair(LAYOUT, *there(), {})


def test_what_is_missing_is_made() -> None:
    sets, chains, rules = there()
    del sets["allowed"], chains["nat-output"], rules["nat-output"], rules["sources"]
    rules["nat-prerouting"].reverse()
    needed = repair(LAYOUT, sets, chains, rules, {})
    assert names(needed) == (False, ["allowed"], ["nat-output"], ["sources", "nat-prerouting", "nat-output"])


@pytest.mark.parametrize("what", ["another set", "another chain", "a set of another kind", "a chain of another hook"])
def test_what_is_in_the_way_has_the_table_made_anew(what: str) -> None:
    sets, chains, rules = there()
    if what == "another set":
        sets["portals-of-old"] = sets["portals"]
    elif what == "another chain":
        chains["old"] = None
    elif what == "a set of another kind":
        sets["portals"] = structs.replace(sets["portals"], data_type=7)
    else:
        chains["nat-output"] = Hook("nat", 3, -100)
    assert repair(LAYOUT, sets, chains, rules, {}) == structs.replace(creation(LAYOUT), anew=True)


def test_rules_are_known_again_as_the_kernel_listed_them() -> None:
    sets, chains, rules = there()
    chain = LAYOUT.chains[0]
    rules[chain.name] = [b"in other words"]
    assert names(repair(LAYOUT, sets, chains, rules, {})) == (False, [], [], [chain.name])
    assert not repair(LAYOUT, sets, chains, rules, {chain: (b"in other words",)})
    assert repair(LAYOUT, sets, chains, {**rules, chain.name: []}, {chain: (b"in other words",)})


def test_another_address_of_the_node_rewrites_the_rules_that_name_it() -> None:
    moved = layout(FAMILY, "0.0.0.0", "192.0.2.11", LocalTraffic(("10.244.0.0/16",)))
    needed = rewriting(LAYOUT, moved)
    assert {each.name for each in needed.rules} == {
        "nat-node-ports-from-node",
        "nat-from-node",
        "nat-node-ports-from-elsewhere",
        "nat-from-elsewhere",
        "nat-prerouting",
        "nat-output",
    }
    assert not needed.sets
    assert not rewriting(LAYOUT, LAYOUT)


def test_edits_of_elements() -> None:
    kept, changed, gone = ELEMENTS[:3]
    was = Element(changed.set, changed.key, b"")
    present = {kept.set: [kept.body, was.body], "udp-listeners": [gone.body]}
    edits = element_edits([kept, changed], present)
    assert edits == Edits((was, Element("udp-listeners", gone.key, gone.rest)), (changed,))


def test_steps_come_in_an_order_in_which_each_finds_what_it_refers_to() -> None:
    needed = structs.replace(creation(LAYOUT), anew=True)
    kinds = [step.kind for step in transaction(LAYOUT, needed, Edits(added=ELEMENTS))]
    assert list(dict.fromkeys(kinds)) == [DELETE_TABLE, NEW_TABLE, NEW_SET, NEW_CHAIN, NEW_ELEMENTS, NEW_RULE]
    assert kinds == sorted(kinds, key=list(dict.fromkeys(kinds)).index)


def test_elements_go_before_others_come_and_rules_of_a_chain_before_its_new_ones() -> None:
    needed = Repair(rules=LAYOUT.chains[:1])
    kinds = [step.kind for step in transaction(LAYOUT, needed, Edits(ELEMENTS[:1], ELEMENTS[1:2]))]
    assert kinds == [NEW_TABLE, DELETE_ELEMENTS, NEW_ELEMENTS, DELETE_RULES, NEW_RULE, NEW_RULE]


def test_ten_thousand_elements_are_in_messages_whose_attributes_hold_them() -> None:
    bindings = [cluster_ip_binding(number) for number in range(10_000)]
    added = tuple(
        each for binding in bindings for claim in claims(binding, FAMILY, "").values() for each in claim.elements
    )
    steps = transaction(LAYOUT, Repair(), Edits(added=added))
    assert 12 <= len(steps) <= 14
    assert max(len(step.body) for step in steps) < 1 << 16
