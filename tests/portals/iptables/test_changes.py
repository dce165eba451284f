from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.portals.examples import WEB, WEB_RULES, led_to
from tests.portals.strategies import binding_lists
from userproxy.model import IPFamily, LocalTraffic, Portal, PortalBinding, PortalKind, Protocol, ServicePortName
from userproxy.portals.iptables.chains import CHAINS, Rule, jump_rules
from userproxy.portals.iptables.changes import (
    REWRITE_ABOVE,
    Change,
    Edit,
    TableChange,
    appended_and_deleted,
    changed,
    difference,
    removal,
    replacement,
    restore_text,
)
from userproxy.portals.iptables.parser import Chains, canonical
from userproxy.portals.iptables.rules import portal_rules

Tables = dict[str, Chains]
PODS = LocalTraffic(networks=("10.244.1.0/24",))

BUILT_IN = {"nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"), "filter": ("INPUT", "FORWARD", "OUTPUT")}
OURS = {chain for chains in CHAINS.values() for chain in chains}
JUMPS = [jump.rule for jump in jump_rules()]
KUBE_PROXY = '-m comment --comment "kubernetes service portals" -j KUBE-SERVICES'
FOREIGN = (KUBE_PROXY, "-j DOCKER", "-s 10.0.0.0/8 -j ACCEPT", '-m comment --comment "to KUBE-PORTALS-HOST" -j RETURN')


def restored(before: Tables, text: str) -> Tables:
    """What iptables-restore --noflush makes of `before`: a deletion takes the first rule that matches."""
    tables = {table: {chain: list(rules) for chain, rules in chains.items()} for table, chains in before.items()}
    chains: Chains = {}
    for line in text.splitlines():
        match line.split(" ", 2):
            case [start] if start.startswith("*"):
                chains = tables.setdefault(start[1:], {})
            case [start, "-", "[0:0]"] if start.startswith(":"):
                chains[start[1:]] = []
            case ["-A", chain, spec]:
                chains[chain].append(spec)
            case ["-I", chain, spec]:
                chains[chain].insert(0, spec)
            case ["-D", chain, spec]:
                chains[chain].pop([canonical(rule) for rule in chains[chain]].index(canonical(spec)))
            case ["-X", chain]:
                led = [r for rules in chains.values() for r in rules if r.endswith((f"-j {chain}", f"-g {chain}"))]
                assert chains.pop(chain) == []
                assert led == []
            case _:
                assert line == "COMMIT"
    return tables


def empty() -> Tables:
    return {table: {chain: [] for chain in chains} for table, chains in BUILT_IN.items()}


def groups(bindings: Sequence[PortalBinding]) -> list[tuple[Rule, ...]]:
    return [portal_rules(binding, "0.0.0.0", "192.0.2.10", PODS) for binding in bindings]


def ours(tables: Tables) -> Tables:
    return {
        table: {chain: rules for chain, rules in tables.get(table, {}).items() if chain in OURS} for table in BUILT_IN
    }


def foreign(tables: Tables) -> Tables:
    jumps = {canonical(jump.spec) for jump in JUMPS}
    return {
        table: {
            chain: [rule for rule in rules if canonical(rule) not in jumps]
            for chain, rules in chains.items()
            if chain not in OURS
        }
        for table, chains in tables.items()
    }


def edits(change: Change) -> list[tuple[str, str]]:
    return [(edit.command, edit.spec) for block in change for edit in block.edits]


def binding(number: int, local_port: int, kinds: Sequence[PortalKind]) -> PortalBinding:
    portals = [
        Portal(kind, "" if kind is PortalKind.NODE_PORT else f"10.{place}.0.{number}", 30000 + number)
        for place, kind in enumerate(PortalKind)
        if kind in kinds
    ]
    return led_to(ServicePortName("default", f"s{number}", "", Protocol.TCP), local_port, tuple(portals))


def test_tables_that_do_not_exist_yet_are_empty_ones() -> None:
    wanted = groups([WEB])
    assert difference({}, wanted) == difference({table: {} for table in BUILT_IN}, wanted)
    assert difference({}, wanted) == difference(empty(), wanted)
    nothing = removal({}, "IPv4, iptables-nft")
    assert (nothing.change, nothing.sentences) == ((), ())


@st.composite
def present_tables(draw: st.DrawFn) -> Tables:
    """Any mixture of what we wrote earlier, in any order and spelling, and of other programs' rules."""
    tables = empty()
    earlier = [rule for group in groups(draw(binding_lists(IPFamily.IPV4))) for rule in group]
    for table, chains in CHAINS.items():
        for chain in draw(st.sets(st.sampled_from(chains))):
            mine = [rule.spec for rule in earlier if rule.chain == chain]
            pool = st.sampled_from([*mine, *FOREIGN])
            tables[table][chain] = draw(st.one_of(st.just(mine), st.permutations(mine), st.lists(pool, max_size=6)))
        for built_in in BUILT_IN[table]:
            jumps = [jump.spec for jump in JUMPS if jump.table == table and jump.chain == built_in]
            tables[table][built_in] = draw(st.lists(st.sampled_from([*jumps, *FOREIGN]), max_size=6))
        tables[table]["DOCKER"] = ["-i docker0 -j RETURN"]
    if draw(st.booleans()):
        tables = {
            table: {
                chain: [rule.replace('"', "") if "handle" not in rule else rule for rule in rules]
                for chain, rules in chains.items()
            }
            for table, chains in tables.items()
        }
    return tables


@settings(deadline=None)
@given(present_tables(), binding_lists(IPFamily.IPV4))
def test_any_state_becomes_the_wanted_one(before: Tables, bindings: list[PortalBinding]) -> None:
    wanted = groups(bindings)
    after = restored(before, restore_text(difference(before, wanted)))

    assert difference(after, wanted) == ()
    assert foreign(after) == foreign(before)
    for group in wanted:
        for table, chains in CHAINS.items():
            for chain in chains:
                specs = [rule.spec for rule in group if rule.chain == chain]
                assert [spec for rule in after[table][chain] if (spec := canonical(rule)) in specs] == specs
    all_wanted = {(rule.chain, rule.spec) for group in wanted for rule in group}
    assert {
        (c, canonical(r)) for chains in ours(after).values() for c, rules in chains.items() for r in rules
    } == all_wanted


@settings(deadline=None)
@given(present_tables(), binding_lists(IPFamily.IPV4))
def test_each_jump_stands_once_and_in_order(before: Tables, bindings: list[PortalBinding]) -> None:
    after = restored(before, restore_text(difference(before, groups(bindings))))
    for table, chain in {(jump.table, jump.chain) for jump in JUMPS}:
        rules = [canonical(rule) for rule in after[table][chain]]
        jumps = [canonical(jump.spec) for jump in JUMPS if (jump.table, jump.chain) == (table, chain)]
        places = [rules.index(jump) for jump in jumps]
        assert places == sorted(places)
        assert all(rules.count(jump) == 1 for jump in jumps)
        if table == "nat" and KUBE_PROXY in after[table][chain]:
            assert places[-1] < after[table][chain].index(KUBE_PROXY)


@settings(deadline=None)
@given(present_tables())
def test_on_a_shared_node_the_jump_of_node_ports_does_not_overtake(before: Tables) -> None:
    before["nat"]["OUTPUT"] = [KUBE_PROXY]
    after = restored(before, restore_text(difference(before, [], shared=True)))
    targets = [rule.rpartition(" ")[2] for rule in after["nat"]["OUTPUT"]]
    assert targets == ["KUBE-PORTALS-HOST", "KUBE-SERVICES", "KUBE-NODEPORT-HOST"]
    assert difference(after, [], shared=True) == ()


@settings(deadline=None)
@given(binding_lists(IPFamily.IPV4), binding_lists(IPFamily.IPV4))
def test_what_stands_after_a_change_is_known_unread(before: list[PortalBinding], after: list[PortalBinding]) -> None:
    tables = restored(empty(), restore_text(difference(empty(), groups(before))))
    change = difference(tables, groups(after))
    known = appended_and_deleted(tables, change)
    assert known is not None or any(block.fresh for block in change)
    assert known is None or known == restored(tables, restore_text(change))
    assert changed(tables, change) == restored(tables, restore_text(change))


@settings(deadline=None)
@given(present_tables(), binding_lists(IPFamily.IPV4))
def test_what_any_change_comes_to_is_known(before: Tables, bindings: list[PortalBinding]) -> None:
    change = difference(before, groups(bindings))
    standing = restored(before, restore_text(change))
    assert changed(before, change) == standing
    gone = removal(standing, "").change
    assert changed(standing, gone) == restored(standing, restore_text(gone))


@pytest.mark.parametrize(
    "block",
    [
        TableChange("nat", drop=("KUBE-PORTALS-HOST",)),
        TableChange("nat", (), (Edit("-D", "PREROUTING", "-j KUBE-PORTALS-CONTAINER"),)),
    ],
)
def test_what_a_change_of_something_else_comes_to_is_not_known(block: TableChange) -> None:
    assert changed(empty(), (block,)) is None


@pytest.mark.parametrize(
    "block",
    [
        TableChange("nat", fresh=("KUBE-PORTALS-HOST",)),
        TableChange("nat", drop=("KUBE-PORTALS-HOST",)),
        TableChange("nat", (), (Edit("-I", "PREROUTING", "-j KUBE-PORTALS-CONTAINER"),)),
        TableChange("nat", (), (Edit("-D", "PREROUTING", "-j KUBE-PORTALS-CONTAINER"),)),
    ],
)
def test_other_changes_have_to_be_read_back(block: TableChange) -> None:
    assert appended_and_deleted(empty(), (block,)) is None


@settings(deadline=None)
@given(present_tables(), binding_lists(IPFamily.IPV4))
def test_groups_that_stand_are_not_mentioned(before: Tables, bindings: list[PortalBinding]) -> None:
    standing = restored(before, restore_text(difference(before, groups(bindings))))
    added = binding(9, 49999, list(PortalKind))
    change = difference(standing, groups([*bindings, added]))
    assert {command for command, _ in edits(change)} == {"-A"}
    assert all('"default/s9"' in spec for _, spec in edits(change))
    assert all(block.fresh == () for block in change)


@settings(deadline=None)
@given(st.data(), binding_lists(IPFamily.IPV4), binding_lists(IPFamily.IPV4))
def test_no_commit_leaves_a_node_port_without_its_accept(
    data: st.DataObject, before: list[PortalBinding], after: list[PortalBinding]
) -> None:
    tables = restored(empty(), restore_text(difference(empty(), groups(before))))
    change = difference(tables, groups(after))
    written = data.draw(st.integers(0, len(change)))
    tables = restored(tables, restore_text(change[:written]))
    accepted = " ".join(tables["filter"]["KUBE-NODEPORT-NON-LOCAL"])
    for rule in tables["nat"]["KUBE-NODEPORT-CONTAINER"]:
        if rule.endswith("-j ACCEPT"):
            continue
        assert f"--dport {rule.rpartition(' ')[2]} " in accepted


@settings(deadline=None)
@given(present_tables())
def test_removal_takes_all_that_is_ours_and_nothing_else(before: Tables) -> None:
    after = restored(before, restore_text(removal(before, "here").change))
    assert ours(after) == {"nat": {}, "filter": {}}
    assert after == foreign(before)
    assert removal(after, "here").sentences == ()


def test_the_worked_example_from_nothing() -> None:
    after = restored(empty(), restore_text(difference(empty(), groups([WEB]))))
    assert {t: {c: r for c, r in chains.items() if r} for t, chains in after.items()} == WEB_RULES


def test_filter_accepts_before_nat_redirects_and_forgets_after() -> None:
    tables = restored(empty(), restore_text(difference(empty(), groups([WEB]))))
    moved = led_to(WEB.name, 50000, WEB.portals)
    change = difference(tables, groups([moved]))
    assert [block.table for block in change] == ["filter", "nat", "filter"]
    assert [[edit.command for edit in block.edits] for block in (change[0], change[2])] == [["-A"], ["-D"]]


def test_what_is_refused_is_refused_before_node_ports_are_let_in() -> None:
    tables = restored(empty(), restore_text(difference(empty(), [])))
    right = list(tables["filter"]["INPUT"])
    tables["filter"]["INPUT"] = [right[1], "-j OTHER", right[0]]
    after = restored(tables, restore_text(difference(tables, [])))
    assert after["filter"]["INPUT"] == [*right, "-j OTHER"]


def test_a_portal_in_the_middle_moves_its_own_group_only() -> None:
    with_lb = led_to(
        WEB.name, WEB.internal.local_port, (*WEB.portals, Portal(PortalKind.LOAD_BALANCER_IP, "198.51.100.1", 80))
    )
    without_external = led_to(
        WEB.name, WEB.internal.local_port, tuple(p for p in with_lb.portals if p.kind is not PortalKind.EXTERNAL_IP)
    )
    other = binding(1, 40000, [PortalKind.CLUSTER_IP])
    tables = restored(empty(), restore_text(difference(empty(), groups([without_external, other]))))
    change = difference(tables, groups([with_lb, other]))
    assert change
    assert all('"default/web:http"' in spec for _, spec in edits(change))
    assert [command for command, _ in edits(change)].count("-D") == 4


def test_many_deletions_rewrite_the_chain() -> None:
    many = [binding(number, 40000 + number, [PortalKind.CLUSTER_IP]) for number in range(REWRITE_ABOVE + 2)]
    tables = restored(empty(), restore_text(difference(empty(), groups(many))))
    change = difference(tables, groups(many[:1]))
    assert change == (
        TableChange(
            "nat",
            ("KUBE-PORTALS-CONTAINER", "KUBE-PORTALS-HOST"),
            tuple(Edit("-A", rule.chain, rule.spec) for rule in groups(many[:1])[0]),
        ),
    )


def test_two_service_ports_with_one_rule_have_it_once() -> None:
    twice = groups([WEB, WEB])
    after = restored(empty(), restore_text(difference(empty(), twice)))
    assert after["nat"]["KUBE-NODEPORT-HOST"] == WEB_RULES["nat"]["KUBE-NODEPORT-HOST"]
    assert difference(after, twice) == ()


@pytest.mark.parametrize("spec", ["-i eth0 -j KUBE-PORTALS-HOST", "-i eth0 -g KUBE-PORTALS-HOST"])
def test_a_chain_that_a_foreign_rule_leads_to_stays_empty(spec: str) -> None:
    tables = restored(empty(), restore_text(difference(empty(), groups([WEB]))))
    tables["nat"]["OUTPUT"].append(spec)
    found = removal(tables, "iptables-nft")
    assert (
        "iptables-nft, table nat: emptied the chain KUBE-PORTALS-HOST of 2 rules and left it, "
        f"because this rule leads to it: -A OUTPUT {spec}"
    ) in found.sentences
    after = restored(tables, restore_text(found.change))
    assert ours(after) == {"nat": {"KUBE-PORTALS-HOST": []}, "filter": {}}
    assert after["nat"]["OUTPUT"] == [spec]
    assert removal(after, "iptables-nft").change == ()


def test_removal_says_what_it_removes() -> None:
    tables = restored(empty(), restore_text(difference(empty(), groups([WEB]))))
    assert removal(tables, "iptables-nft").sentences == (
        "iptables-nft, table nat: removed the jump from PREROUTING to KUBE-PORTALS-CONTAINER",
        "iptables-nft, table nat: removed the jump from OUTPUT to KUBE-PORTALS-HOST",
        "iptables-nft, table nat: removed the jump from PREROUTING to KUBE-NODEPORT-CONTAINER",
        "iptables-nft, table nat: removed the jump from OUTPUT to KUBE-NODEPORT-HOST",
        "iptables-nft, table nat: removed the chain KUBE-PORTALS-CONTAINER with 2 rules",
        "iptables-nft, table nat: removed the chain KUBE-PORTALS-HOST with 2 rules",
        "iptables-nft, table nat: removed the chain KUBE-NODEPORT-CONTAINER with 1 rule",
        "iptables-nft, table nat: removed the chain KUBE-NODEPORT-HOST with 1 rule",
        "iptables-nft, table filter: removed the jump from INPUT to KUBE-PORTALS-FILTER",
        "iptables-nft, table filter: removed the jump from INPUT to KUBE-NODEPORT-NON-LOCAL",
        "iptables-nft, table filter: removed the jump from FORWARD to KUBE-PORTALS-FILTER",
        "iptables-nft, table filter: removed the jump from OUTPUT to KUBE-PORTALS-FILTER-HOST",
        "iptables-nft, table filter: removed the chain KUBE-NODEPORT-NON-LOCAL with 1 rule",
        "iptables-nft, table filter: removed the chain KUBE-PORTALS-FILTER with 0 rules",
        "iptables-nft, table filter: removed the chain KUBE-PORTALS-FILTER-HOST with 0 rules",
    )


@settings(deadline=None)
@given(binding_lists(IPFamily.IPV4), binding_lists(IPFamily.IPV4))
def test_what_changed_alone_leads_to_the_same_tables(before: list[PortalBinding], after: list[PortalBinding]) -> None:
    standing = restored(empty(), restore_text(difference(empty(), groups(before))))
    old, new = ({each.name: rules for each, rules in zip(some, groups(some), strict=True)} for some in (before, after))
    change = replacement([(old.get(name, ()), new.get(name, ())) for name in old | new])
    found = restored(standing, restore_text(change))
    assert difference(found, groups(after)) == ()
    assert appended_and_deleted(standing, change) == found
    assert replacement([(rules, rules) for rules in new.values()]) == ()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "taker", ["-j ACCEPT", '-m comment --comment "mine" -j RETURN', "-j DNAT --to-destination 1.2.3.4"]
)
def test_all_jumps_of_nat_come_before_a_rule_that_takes_everything(taker: str, shared: bool) -> None:
    before = restored(empty(), restore_text(difference(empty(), [])))
    before["nat"]["PREROUTING"].insert(0, taker)
    after = restored(before, restore_text(difference(before, [], shared=shared)))
    targets = [rule.rpartition(" ")[2] for rule in after["nat"]["PREROUTING"]]
    assert targets == ["KUBE-PORTALS-CONTAINER", "KUBE-NODEPORT-CONTAINER", taker.rpartition(" ")[2]]
    assert difference(after, [], shared=shared) == ()


@pytest.mark.parametrize("exception", ["-s 10.0.0.0/8 -j ACCEPT", "-p tcp -m tcp --dport 80 -j RETURN", "-j DOCKER"])
def test_an_exception_that_somebody_has_put_before_ours_stands(exception: str) -> None:
    before = restored(empty(), restore_text(difference(empty(), [])))
    before["nat"]["PREROUTING"].insert(0, exception)
    before["filter"]["INPUT"].insert(0, "-j DROP")
    assert difference(before, []) == ()
