"""Reading, writing and reading back, through the driver: by the kernel's tables and real programs."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from tests.portals.conftest import Network, shell
from tests.portals.examples import (
    cluster_ip_binding,
    web,
    web_rules,
)
from tests.portals.iptables.test_driver import kernel, sync, with_driver, with_foreign_rules, with_gone, without_ours
from userproxy.errors import KernelToolError
from userproxy.portals.iptables import tables
from userproxy.portals.iptables.changes import Change
from userproxy.portals.iptables.driver import IptablesDriver
from userproxy.portals.iptables.parser import parse_save
from userproxy.portals.iptables.tables import MOST_UNREAD
from userproxy.portals.iptables.variant import Tools, Variant
from userproxy.portals.iptables.writers.restore import RestoreWriter
from userproxy.portals.programs import save


def test_a_small_change_is_written_unread_and_verified_later(
    node: Network, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = web(tools.family), cluster_ip_binding(1, family=tools.family)
    reads: list[str] = []

    def counted(program: str, table: str = "") -> str:
        reads.append(table)
        return save(program, table)

    async def work(driver: IptablesDriver) -> None:
        await driver.sync([one], verify=False)
        assert reads
        monkeypatch.setattr(tables, "save", counted)
        reads.clear()
        for bindings, gone in with_gone([[one], [one, other], [other], [one], [one]]):
            await driver.sync(bindings, gone, verify=False)
        assert reads == []
        shell(tools.restore, "--noflush", text="*nat\n:FOREIGN - [0:0]\nCOMMIT\n")  # so that there is something to read
        await driver.sync([one])
        assert reads

    monkeypatch.setattr(tables, "save", counted)
    with_driver(node, tools, work)
    assert kernel(node, tools) == web_rules(tools.family)


def test_a_first_sync_reads_no_table_again_where_the_kernel_shows_that_nobody_else_writes(
    node: Network, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once at the beginning, and once after the guard of connections, which is of nf_tables, too.

    What it has written is read by the next verification.
    """
    reads: list[str] = []

    def counted(program: str, table: str = "") -> str:
        reads.append(table)
        return save(program, table)

    async def work(driver: IptablesDriver) -> None:
        for _ in range(2):
            assert await driver.local_ports() == {}
        await driver.sync([web(tools.family)])
        assert sorted(reads) == sorted(["nat", "filter"] * (2 if tools.variant is Variant.NFT else 4))
        reads.clear()
        await driver.sync([])
        assert sorted(reads) == sorted(["nat", "filter"])

    monkeypatch.setattr(tables, "save", counted)
    with_driver(node, tools, work)
    assert kernel(node, tools) == web_rules(tools.family)


def test_what_others_write_while_a_first_sync_writes_is_read(
    node: Network, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = RestoreWriter.apply

    def disturbed(writer: RestoreWriter, change: Change) -> None:
        apply(writer, change)
        if any(block.fresh for block in change):
            shell(tools.restore, "--noflush", text="*nat\n-F KUBE-PORTALS-CONTAINER\nCOMMIT\n")

    async def work(driver: IptablesDriver) -> None:
        await driver.sync([web(tools.family)])

    monkeypatch.setattr(RestoreWriter, "apply", disturbed)
    with_driver(node, tools, work)
    assert kernel(node, tools) == web_rules(tools.family)


def test_many_changes_are_read_back_in_any_case(node: Network, tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [cluster_ip_binding(number, family=tools.family) for number in range(MOST_UNREAD)]
    reads: list[str] = []

    def counted(program: str, table: str = "") -> str:
        reads.append(table)
        return save(program, table)

    async def work(driver: IptablesDriver) -> None:
        await driver.sync([])
        monkeypatch.setattr(tables, "save", counted)
        await driver.sync(many, verify=False)

    with_driver(node, tools, work)
    assert reads


@pytest.mark.parametrize(
    ("damage", "seen"),
    [
        ("*nat\n-F KUBE-PORTALS-HOST\nCOMMIT\n", True),
        ("*nat\n-F PREROUTING\n-F KUBE-PORTALS-HOST\n-F OUTPUT\n-X KUBE-PORTALS-HOST\nCOMMIT\n", True),
        ("*nat\n-A KUBE-PORTALS-HOST -j RETURN\nCOMMIT\n", False),
        ("*filter\n-F INPUT\nCOMMIT\n", False),
    ],
)
def test_damage_is_repaired_where_it_is_in_the_way_or_at_the_next_verified_sync(
    node: Network, tools: Tools, damage: str, seen: bool
) -> None:
    one, other = web(tools.family), cluster_ip_binding(1, family=tools.family)
    foreign = with_foreign_rules(node, tools)

    async def work(driver: IptablesDriver) -> None:
        assert (await driver.sync([one, other])).differed
        assert not (await driver.sync([one, other])).differed
        shell(tools.restore, "--noflush", text=damage)
        assert (await driver.sync([], [other.name], verify=False)).differed is seen

        def ours() -> bool:
            standing = parse_save(shell(tools.save))
            wanted = web_rules(tools.family)
            return (
                standing["nat"]["KUBE-PORTALS-HOST"] == wanted["nat"]["KUBE-PORTALS-HOST"]
                and standing["filter"]["INPUT"][:2] == wanted["filter"]["INPUT"]
            )

        assert ours() is seen
        assert (await driver.sync([])).differed is not seen, "whoever repairs says so"
        assert ours()

    with_driver(node, tools, work)
    after = without_ours(kernel(node, tools))
    assert {chain: rules for chain, rules in foreign["nat"].items() if chain not in ("PREROUTING", "OUTPUT")} == {
        chain: rules for chain, rules in after["nat"].items() if chain not in ("PREROUTING", "OUTPUT")
    }


def test_after_a_removal_everything_is_read_again(node: Network, tools: Tools) -> None:
    async def work(driver: IptablesDriver) -> None:
        await driver.sync([web(tools.family)])
        await driver.remove()
        await driver.sync([web(tools.family)], verify=False)

    with_driver(node, tools, work)
    assert kernel(node, tools) == web_rules(tools.family)


def test_another_program_writing_at_the_same_time_loses_nothing(node: Network, tools: Tools) -> None:
    """Small changes and bulk ones, while a loop of ``iptables -A`` appends to a chain of its own."""
    program = tools.save.removesuffix("-save")
    node.shell(program, "-t", "nat", "-N", "OTHER")
    enough = Event()

    def write() -> int:
        """Append rules until told that it is enough; how many."""
        for number in range(2000):
            shell(program, "-w", "10", "-t", "nat", "-A", "OTHER", "-p", "tcp", "--dport", str(number), "-j", "RETURN")
            if enough.is_set():
                return number + 1
        return 2000

    many = [cluster_ip_binding(number, family=tools.family) for number in range(100)]
    with ThreadPoolExecutor(1) as pool:
        # A thread belongs to the network of the thread that starts it.
        writing = node.run(lambda: pool.submit(write))
        try:
            for _ in range(5):
                sync(node, tools, [web(tools.family), *many], [web(tools.family)], [web(tools.family), many[0]], [])
        finally:
            enough.set()
        foreign = writing.result()
    sync(node, tools, [web(tools.family)])
    after = kernel(node, tools)
    assert len(after["nat"].pop("OTHER")) == foreign
    assert after == web_rules(tools.family)


def meddle(directory: Path, restore: str, body: str) -> str:
    """Puts a restore program in front of the real one that runs `body` around ``run``; answers with a PATH."""
    program = directory / Path(restore).name
    program.write_text(f'#!/bin/sh\ncd {directory}\nrun() {{ {restore} "$@"; }}\n{body}\n')
    program.chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"


@pytest.mark.parametrize("times", [1, 2])
def test_a_program_that_changes_our_chains_behind_us(
    node: Network, tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Once is repaired within the sync; each time is an error."""
    stray = "*nat\\n-A KUBE-PORTALS-HOST -j RETURN\\nCOMMIT\\n"
    (tmp_path / "left").write_text("x\n" * times)
    body = f"run \"$@\" || exit\ntest -s left && sed -i 1d left && printf '{stray}' | run --noflush; exit 0"
    monkeypatch.setenv("PATH", meddle(tmp_path, tools.restore, body))
    many = [cluster_ip_binding(number, family=tools.family) for number in range(10)]
    if times == 1:
        sync(node, tools, many)
        assert "RETURN" not in str(kernel(node, tools))
    else:
        with pytest.raises(KernelToolError, match="is not as it was written twice"):
            sync(node, tools, many)


@pytest.mark.parametrize("times", [1, 2])
def test_a_rule_that_vanishes_between_reading_and_writing(
    node: Network, tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    many = [cluster_ip_binding(number, family=tools.family) for number in range(10)]
    sync(node, tools, many)
    vanishing = "*nat\\n-D KUBE-PORTALS-HOST 1\\nCOMMIT\\n"
    (tmp_path / "left").write_text("x\n" * times)
    body = f"test -s left && sed -i 1d left && printf '{vanishing}' | run --noflush; run \"$@\""
    monkeypatch.setenv("PATH", meddle(tmp_path, tools.restore, body))
    if times == 1:
        sync(node, tools, [])
        assert "bulk/" not in str(kernel(node, tools))
    else:
        with pytest.raises(KernelToolError, match="failed with exit status"):
            sync(node, tools, [])
