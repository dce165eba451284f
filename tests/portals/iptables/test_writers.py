import fcntl
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import TextIOWrapper
from pathlib import Path

import pytest

from tests.portals.conftest import Network, shell
from tests.portals.examples import NOBODY, WEB, WEB_RULES
from userproxy.errors import KernelToolError
from userproxy.model import IPFamily
from userproxy.portals.iptables.chains import jump_rules
from userproxy.portals.iptables.changes import Change, Edit, TableChange, difference
from userproxy.portals.iptables.parser import parse_save
from userproxy.portals.iptables.rules import portal_rules
from userproxy.portals.iptables.variant import Tools, Variant, installed, legacy_tables
from userproxy.portals.iptables.writers import MOST_EDITS, ConflictError, RestoreWriter, Writer, is_small

GROUPS = [portal_rules(WEB, "0.0.0.0", "192.0.2.10", NOBODY)]
FROM_NOTHING = difference({}, GROUPS)
JUMPS_ONLY = difference({}, [])
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
    from userproxy.portals.iptables.libiptc import LibiptcWriter

    return LibiptcWriter()


@pytest.fixture
def legacy(network: Network) -> Tools:
    """The legacy programs, and our chains made in an otherwise empty network."""
    found = [tools for tools in installed(IPFamily.IPV4) if tools.variant is Variant.LEGACY]
    if not found:
        pytest.skip("needs the legacy variant of iptables")
    network.run(lambda: RestoreWriter(found[0]).apply(JUMPS_ONLY))
    return found[0]


def rules(network: Network, tools: Tools) -> dict[str, dict[str, list[str]]]:
    saved = "".join(network.shell(tools.save, "-t", table) for table in ("nat", "filter"))
    return {table: {c: r for c, r in chains.items() if r} for table, chains in parse_save(saved).items()}


def test_libiptc_writes_what_restore_writes(network: Network, legacy: Tools) -> None:
    before = rules(network, legacy)
    assert is_small(EVERY_RULE)
    network.run(lambda: libiptc().apply(EVERY_RULE))
    assert rules(network, legacy) == WEB_RULES
    network.run(lambda: libiptc().apply(BACKWARDS))
    assert rules(network, legacy) == before


@pytest.mark.parametrize(("adding", "deleting"), [("restore", "libiptc"), ("libiptc", "restore")])
def test_either_writer_deletes_what_the_other_wrote(
    network: Network, legacy: Tools, adding: str, deleting: str
) -> None:
    writers: dict[str, Writer] = {"restore": RestoreWriter(legacy), "libiptc": libiptc()}
    before = rules(network, legacy)
    network.run(lambda: writers[adding].apply(EVERY_RULE))
    network.run(lambda: writers[deleting].apply(BACKWARDS))
    assert rules(network, legacy) == before


def test_libiptc_opens_no_other_table(network: Network, legacy: Tools) -> None:
    # The library remembers for ever which tables it opened, so a fresh process has to show it.
    network.shell(
        sys.executable,
        "-c",
        "from tests.portals.iptables.test_writers import EVERY_RULE, libiptc; libiptc().apply(EVERY_RULE)",
    )
    assert rules(network, legacy) == WEB_RULES
    assert network.run(lambda: legacy_tables(IPFamily.IPV4)) == {"nat", "filter"}


@pytest.mark.parametrize("make", [RestoreWriter, lambda _: libiptc()], ids=["restore", "libiptc"])
def test_a_rule_that_vanished_is_a_conflict_and_leaves_the_table_alone(
    network: Network, legacy: Tools, make: Callable[[Tools], Writer]
) -> None:
    before = rules(network, legacy)
    change = (TableChange("nat", (), (*EVERY_RULE[1].edits, *ABSENT[0].edits, *ABSENT[0].edits)),)
    with pytest.raises(ConflictError):
        network.run(lambda: make(legacy).apply(change))
    assert rules(network, legacy) == before


@pytest.mark.parametrize("address", ["999.0.0.1/32", "nonsense"])
def test_libiptc_refuses_what_is_no_address(network: Network, legacy: Tools, address: str) -> None:
    change = (TableChange("nat", (), (Edit("-A", "KUBE-PORTALS-HOST", f"-d {address} -p tcp -j ACCEPT"),)),)
    with pytest.raises(KernelToolError, match="libiptc refused a change of table nat"):
        network.run(lambda: libiptc().apply(change))


@pytest.fixture
def held_lock(network: Network, legacy: Tools) -> Iterator[TextIOWrapper]:
    with network.run(Path("/run/xtables.lock").open) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


@pytest.mark.slow
def test_a_lock_that_is_never_free_is_named(network: Network, legacy: Tools, held_lock: TextIOWrapper) -> None:
    writers: list[Writer] = [RestoreWriter(legacy), libiptc()]
    with ThreadPoolExecutor() as pool:
        tries = [network.run(partial(pool.submit, writer.apply, EVERY_RULE)) for writer in writers]
        for tried in tries:
            with pytest.raises(KernelToolError, match="xtables lock") as caught:
                tried.result()
            assert not isinstance(caught.value, ConflictError)


def test_libiptc_waits_for_the_lock(network: Network, legacy: Tools, held_lock: TextIOWrapper) -> None:
    threading.Timer(0.3, held_lock.close).start()
    network.run(lambda: libiptc().apply(EVERY_RULE))
    assert held_lock.closed
    assert rules(network, legacy) == WEB_RULES


def test_the_lock_file_can_be_elsewhere(
    network: Network, legacy: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
    network.run(lambda: libiptc().apply(EVERY_RULE))
    assert (tmp_path / "lock").exists()
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "missing" / "lock"))
    with pytest.raises(KernelToolError, match=r"xtables lock .*/missing/lock cannot be opened: No such file"):
        network.run(lambda: libiptc().apply(BACKWARDS))


def test_libiptc_loses_no_rule_that_another_program_writes(network: Network, legacy: Tools) -> None:
    foreign = 40
    network.shell("iptables-legacy", "-t", "nat", "-N", "OTHER")

    def write() -> None:
        for number in range(foreign):
            shell("iptables-legacy", "-w", "10", "-t", "nat", "-A", "OTHER", "-p", "tcp", "--dport", str(number))

    writing = threading.Thread(target=write)
    network.run(writing.start)
    rounds = 0
    while writing.is_alive():
        network.run(lambda: libiptc().apply(EVERY_RULE))
        network.run(lambda: libiptc().apply(BACKWARDS))
        rounds += 1
    assert len(rules(network, legacy)["nat"]["OTHER"]) == foreign
    assert rounds > 1


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
