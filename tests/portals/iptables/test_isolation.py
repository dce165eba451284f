"""The search for what is refused, against a table that is a set; and when what was refused is tried again."""

import math
from collections.abc import Mapping
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.portals.examples import NOBODY, cluster_ip_binding, web
from userproxy.errors import KernelToolError
from userproxy.model import IPFamily, Protocol, ServicePortName
from userproxy.portals.iptables.chains import NAT, PORTALS_HOST, Rule
from userproxy.portals.iptables.changes import Edit, Group
from userproxy.portals.iptables.isolation import MOST_RUNS, Groups, Refusals, Search, standing
from userproxy.portals.iptables.parser import Chains
from userproxy.portals.iptables.rules import portal_rules
from userproxy.portals.iptables.writers.restore import ConflictError


def named(number: int) -> ServicePortName:
    return ServicePortName("bulk", f"s{number}", "", Protocol.TCP)


def group(number: int) -> Group:
    return (Rule(NAT, PORTALS_HOST, f"-d 10.0.0.{number}/32 -j RETURN"), Rule(NAT, PORTALS_HOST, f"-s {number} -j X"))


class Table:
    """Refuses a write with any of the `bad` groups in it; `hint` says which groups it complains of."""

    def __init__(self, bad: set[int], hints: Mapping[int, int] | None = None) -> None:
        self.bad = {named(number) for number in bad}
        self.hints = hints or {}
        self.stands: set[ServicePortName] = set()
        self.history: list[set[ServicePortName]] = []

    def write(self, groups: Groups) -> None:
        self.history.append(set(groups))
        if refused := sorted(self.bad & groups.keys()):
            hint = self.hints.get(int(refused[0].name[1:]))
            told = [] if hint is None else [Edit("-A", rule.chain, rule.spec) for rule in group(hint)][:1]
            raise ConflictError(f"refused {refused[0]}", told)
        self.stands = set(groups)

    def search(self, numbers: range, present: range = range(0)) -> tuple[set[int], dict[int, str]]:
        refused: dict[int, str] = {}

        def refuse(name: ServicePortName, _group: Group, reason: str) -> None:
            refused[int(name.name[1:])] = reason

        groups = {named(number): group(number) for number in numbers}
        accepted = Search(self.write, refuse, lambda: 0.0).run(groups, {named(number) for number in present})
        assert set(accepted) == self.stands
        return {int(name.name[1:]) for name in accepted}, refused


@given(st.integers(1, 60), st.data())
def test_all_that_is_good_stands_and_all_that_is_bad_is_named(size: int, data: st.DataObject) -> None:
    numbers = st.integers(0, size - 1)
    bad = data.draw(st.sets(numbers, max_size=4))
    table = Table(bad, data.draw(st.dictionaries(numbers, numbers, max_size=4)))
    accepted, refused = table.search(range(size))
    assert accepted == set(range(size)) - bad
    assert refused == {number: f"refused bulk/s{number}" for number in bad}


@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_what_stood_is_kept_at_all_times(old: int, new: int, data: st.DataObject) -> None:
    bad = data.draw(st.sets(st.integers(old, old + new - 1), max_size=3))
    table = Table(bad)
    table.search(range(old + new), present=range(old))
    assert all({named(number) for number in range(old)} <= written for written in table.history)


@pytest.mark.parametrize("bad", [0, 4999, 9999])
def test_one_among_ten_thousand(bad: int) -> None:
    table = Table({bad}, {bad: bad})
    assert len(table.search(range(10_000))[0]) == 9_999
    assert len(table.history) <= 4, "the program named the line"
    table = Table({bad})
    assert len(table.search(range(10_000))[0]) == 9_999
    assert len(table.history) <= 2 * math.ceil(math.log2(10_000)) + 3


def test_a_table_that_refuses_whatever_it_is_given() -> None:
    class Broken(Table):
        def write(self, groups: Groups) -> None:
            raise ConflictError("no table nat")

    with pytest.raises(KernelToolError, match="no table nat"):
        Broken(set()).search(range(10))


def test_a_search_ends() -> None:
    table = Table(set(range(0, 1000, 2)))
    with pytest.raises(KernelToolError, match=f"more rules are refused than could be found in {MOST_RUNS} tries"):
        table.search(range(1000))
    assert len(table.history) == MOST_RUNS
    now = iter(range(0, 1000, 6))
    with pytest.raises(KernelToolError, match="in 3 tries"):
        Search(table.write, lambda *_: None, lambda: next(now)).run({named(2): group(2), named(4): group(4)}, ())


def test_what_stands_is_seen_in_any_spelling() -> None:
    groups = {
        binding.name: portal_rules(binding, "0.0.0.0", "192.0.2.10", NOBODY)
        for binding in (web(IPFamily.IPV4), cluster_ip_binding(1))
    }
    present: dict[str, Chains] = {"nat": {}, "filter": {}}
    for rule in groups[web(IPFamily.IPV4).name]:
        present[rule.table].setdefault(rule.chain, []).append(rule.spec.replace('"', "").replace("/32", ""))
    assert standing(present, groups) == {web(IPFamily.IPV4).name}
    next(iter(present["nat"].values())).pop()
    assert standing(present, groups) == set()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_was_refused_is_tried_again_at_verifications_ever_more_rarely() -> None:
    clock = Clock()
    refusals = Refusals(clock)
    groups = {named(1): group(1), named(2): group(2)}
    tries = []
    for second in range(0, 7200, 30):
        clock.now = float(second)
        assert second == 0 or named(1) not in refusals.admitted(groups, verify=False)
        if named(1) in refusals.admitted(groups, verify=True):
            tries.append(second)
            refusals.refuse(named(1), group(1), f"line {second} failed")
            refusals.accepted([named(2)])
    assert tries[:5] == [0, 30, 90, 210, 420]
    assert max(later - one for one, later in pairwise(tries)) == 900
    assert refusals.reasons == {named(1): "line 0 failed"}, "one problem, not a new one for each try"


def test_what_was_refused_is_tried_again_at_once_when_it_is_another() -> None:
    refusals = Refusals(Clock())
    refusals.refuse(named(1), group(1), "no")
    other = {named(1): group(2)}
    assert refusals.admitted(other, verify=False) == other
    refusals.accepted(other)
    assert refusals.reasons == {}
    refusals.refuse(named(1), group(1), "no")
    assert refusals.admitted({}, verify=False) == {}
    assert refusals.reasons == {}, "nobody wants it any more"


def test_what_can_have_no_rules_is_not_tried_again() -> None:
    clock = Clock()
    refusals = Refusals(clock)
    refusals.refuse(named(1), (), "its name cannot stand in a rule")
    clock.now = 1e6
    assert refusals.admitted({named(1): ()}, verify=True) == {}
    assert list(refusals.reasons) == [named(1)]
