"""python-iptables beside iptables-restore."""

import sys
import threading
from io import TextIOWrapper
from pathlib import Path

import pytest

from tests.portals.conftest import Network, shell
from tests.portals.examples import WEB_RULES
from tests.portals.iptables.writers.test_restore import BACKWARDS, EVERY_RULE, libiptc, rules
from userproxy.errors import KernelToolError
from userproxy.model import IPFamily
from userproxy.portals.iptables.changes import Edit, TableChange
from userproxy.portals.iptables.variant import Tools, legacy_tables
from userproxy.portals.iptables.writers.restore import RestoreWriter, Writer, is_small


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
        "from tests.portals.iptables.writers.test_restore import EVERY_RULE, libiptc; libiptc().apply(EVERY_RULE)",
    )
    assert rules(network, legacy) == WEB_RULES
    assert network.run(lambda: legacy_tables(IPFamily.IPV4)) == {"nat", "filter"}


@pytest.mark.parametrize("address", ["999.0.0.1/32", "nonsense"])
def test_libiptc_refuses_what_is_no_address(network: Network, legacy: Tools, address: str) -> None:
    change = (TableChange("nat", (), (Edit("-A", "KUBE-PORTALS-HOST", f"-d {address} -p tcp -j ACCEPT"),)),)
    with pytest.raises(KernelToolError, match="libiptc refused a change of table nat"):
        network.run(lambda: libiptc().apply(change))


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
