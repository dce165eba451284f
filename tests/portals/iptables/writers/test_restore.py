from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import TextIOWrapper

import pytest

from tests.portals.conftest import Network
from tests.portals.examples import NOBODY, WEB
from userproxy.errors import KernelToolError
from userproxy.portals.iptables.chains import jump_rules
from userproxy.portals.iptables.changes import Change, Edit, TableChange, difference
from userproxy.portals.iptables.parser import parse_save
from userproxy.portals.iptables.rules import portal_rules
from userproxy.portals.iptables.variant import Tools
from userproxy.portals.iptables.writers.restore import MOST_EDITS, ConflictError, RestoreWriter, Writer, is_small

GROUPS = [portal_rules(WEB, "0.0.0.0", "192.0.2.10", NOBODY)]
FROM_NOTHING = difference({}, GROUPS)

EVERY_RULE = tuple(
    TableChange(table, (), tuple(Edit("-A", rule.chain, rule.spec) for rule in GROUPS[0] if rule.table == table))
    for table in ("filter", "nat")
)
BACKWARDS = tuple(
    TableChange(block.table, (), tuple(Edit("-D", edit.chain, edit.spec) for edit in block.edits[::-1]))
    for block in EVERY_RULE
)
ABSENT = (TableChange("nat", (), (Edit("-D", "KUBE-PORTALS-HOST", GROUPS[0][1].spec),)),)


def libiptc() -> Writer:
    # Not at the top: the library looks for libxtables when it is imported, and hosts without it skip these tests.
    from userproxy.portals.iptables.writers.libiptc import LibiptcWriter

    return LibiptcWriter()


def rules(network: Network, tools: Tools) -> dict[str, dict[str, list[str]]]:
    saved = "".join(network.shell(tools.save, "-t", table) for table in ("nat", "filter"))
    return {table: {c: r for c, r in chains.items() if r} for table, chains in parse_save(saved).items()}


@pytest.mark.parametrize("make", [RestoreWriter, lambda _: libiptc()], ids=["restore", "libiptc"])
def test_a_rule_that_vanished_is_a_conflict_and_leaves_the_table_alone(
    network: Network, legacy: Tools, make: Callable[[Tools], Writer]
) -> None:
    before = rules(network, legacy)
    change = (TableChange("nat", (), (*EVERY_RULE[1].edits, *ABSENT[0].edits, *ABSENT[0].edits)),)
    with pytest.raises(ConflictError):
        network.run(lambda: make(legacy).apply(change))
    assert rules(network, legacy) == before


@pytest.mark.slow
def test_a_lock_that_is_never_free_is_named(network: Network, legacy: Tools, held_lock: TextIOWrapper) -> None:
    writers: list[Writer] = [RestoreWriter(legacy), libiptc()]
    with ThreadPoolExecutor() as pool:
        tries = [network.run(partial(pool.submit, writer.apply, EVERY_RULE)) for writer in writers]
        for tried in tries:
            with pytest.raises(KernelToolError, match="xtables lock") as caught:
                tried.result()
            assert not isinstance(caught.value, ConflictError)


@pytest.mark.parametrize(
    ("change", "small"),
    [
        (EVERY_RULE, True),
        (BACKWARDS, True),
        (FROM_NOTHING, False),
        ((TableChange("nat", (), EVERY_RULE[1].edits * 2),), False),
        ((TableChange("nat", (), (Edit("-I", "PREROUTING", jump_rules()[0].rule.spec),)),), False),
        ((TableChange("nat", (), (Edit("-A", "PREROUTING", jump_rules()[2].rule.spec),)),), False),
        ((TableChange("nat", (), (Edit("-D", "KUBE-PORTALS-HOST", "-i eth0 -j ACCEPT"),)),), False),
        ((TableChange("nat", (), (Edit("-D", "KUBE-PORTALS-HOST", "-m recent --set -j ACCEPT"),)),), False),
        ((TableChange("nat", (), (Edit("-D", "KUBE-PORTALS-HOST", "-p tcp -g OTHER"),)),), False),
        ((TableChange("nat", drop=("KUBE-PORTALS-HOST",)),), False),
    ],
)
def test_which_changes_are_small(change: Change, small: bool) -> None:
    assert is_small(change) is small


def test_one_service_port_is_small() -> None:
    assert len(GROUPS[0]) <= MOST_EDITS
