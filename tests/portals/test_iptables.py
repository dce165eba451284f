import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from tests.portals.conftest import Network, shell
from tests.portals.examples import WEB, WEB_NAME, WEB_RULES, cluster_ip_binding
from userproxy.errors import KernelToolError
from userproxy.model import Portal, PortalBinding, PortalKind
from userproxy.portals.iptables import IptablesDriver, cleanup_all
from userproxy.portals.rules import CHAINS, Family
from userproxy.portals.tables import Chains, parse_save
from userproxy.portals.variant import Tools, Variant, installed, legacy_tables

Tables = dict[str, Chains]

FOREIGN = """\
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A DOCKER -i docker0 -j RETURN
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m comment --comment "one; two" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"""


def kernel(node: Network, tools: Tools) -> Tables:
    """Every rule that stands, without chains that are empty."""
    tables = parse_save(node.shell(tools.save))
    return {
        table: {chain: rules for chain, rules in tables.get(table, {}).items() if rules} for table in ("nat", "filter")
    }


def with_driver(
    node: Network, work: Callable[[IptablesDriver], Coroutine[Any, Any, Any]], bind_address: str = "0.0.0.0"
) -> Any:
    async def scenario() -> Any:
        driver = IptablesDriver(bind_address)
        try:
            return await work(driver)
        finally:
            await driver.close()

    return node.run_loop(scenario)


def sync(node: Network, *steps: Sequence[PortalBinding]) -> None:
    async def work(driver: IptablesDriver) -> None:
        for bindings in steps:
            await driver.sync(bindings)

    with_driver(node, work)


def with_foreign_rules(node: Network, tools: Tools) -> Tables:
    node.shell(tools.restore, "--noflush", text=FOREIGN)
    return kernel(node, tools)


def without_ours(tables: Tables) -> Tables:
    ours = {chain for chains in CHAINS.values() for chain in chains}
    return {
        table: {
            chain: [rule for rule in rules if not rule.endswith(tuple(ours))]
            for chain, rules in chains.items()
            if chain not in ours
        }
        for table, chains in tables.items()
    }


def test_the_worked_example_rule_for_rule(node: Network, tools: Tools) -> None:
    sync(node, [WEB])
    assert kernel(node, tools) == WEB_RULES


def test_the_other_variant_is_not_touched(node: Network, tools: Tools) -> None:
    sync(node, [WEB])
    if tools.variant is Variant.LEGACY:
        assert "KUBE-PORTALS" not in node.shell("iptables-nft-save")
        assert node.run(lambda: legacy_tables(Family.IPV4)) == {"nat", "filter", "mangle"}
    else:
        assert node.run(lambda: legacy_tables(Family.IPV4)) == frozenset()


def test_foreign_rules_stand_where_they_stood(node: Network, tools: Tools) -> None:
    foreign = with_foreign_rules(node, tools)
    sync(node, [WEB], [], [WEB, cluster_ip_binding(1)])
    after = kernel(node, tools)
    assert without_ours(after) == foreign
    assert after["nat"]["PREROUTING"][1:-1] == foreign["nat"]["PREROUTING"]
    removed = with_driver(node, lambda driver: driver.remove())
    assert kernel(node, tools) == foreign
    assert len(removed) == 10
    assert all(sentence.startswith(f"iptables-{tools.variant}, table ") for sentence in removed)
    assert with_driver(node, lambda driver: driver.remove()) == []


@pytest.mark.parametrize(
    "damage",
    [
        "*nat\n-F KUBE-PORTALS-CONTAINER\nCOMMIT\n",
        "*nat\n-F PREROUTING\n-F OUTPUT\n-F KUBE-PORTALS-HOST\n-X KUBE-PORTALS-HOST\nCOMMIT\n",
        "*nat\n-A KUBE-PORTALS-HOST -j RETURN\nCOMMIT\n",
        "*nat\n-I KUBE-NODEPORT-HOST -p tcp -m multiport --dports 1,2 -j RETURN\nCOMMIT\n",
        "*filter\n-F INPUT\n-F KUBE-NODEPORT-NON-LOCAL\n-X KUBE-NODEPORT-NON-LOCAL\nCOMMIT\n",
        "*nat\n-A PREROUTING -m comment --comment "
        '"handle ClusterIPs; NOTE: this must be before the NodePort rules" -j KUBE-PORTALS-CONTAINER\nCOMMIT\n',
        "*nat\n-A KUBE-PORTALS-CONTAINER -d 10.96.0.10/32 -p tcp -m comment --comment default/web:http "
        "-m tcp --dport 80 -j REDIRECT --to-ports 41234\nCOMMIT\n",
    ],
)
def test_damage_is_repaired(node: Network, tools: Tools, damage: str) -> None:
    sync(node, [WEB])
    node.shell(tools.restore, "--noflush", text=damage)
    assert kernel(node, tools) != WEB_RULES
    sync(node, [WEB])
    assert kernel(node, tools) == WEB_RULES


def test_rules_that_stand_keep_their_counters(node: Network, tools: Tools) -> None:
    sync(node, [WEB])
    other = cluster_ip_binding(1)
    counted = [
        line.replace("[0:0]", "[7:420]", 1)
        for line in node.shell(tools.save, "-c", "-t", "nat").splitlines()
        if not line.startswith("#")
    ]
    node.shell(tools.restore, "--counters", text="\n".join([*counted, ""]))
    sync(node, [WEB, other], [WEB], [WEB, PortalBinding(other.name, 5, other.portals)])
    saved = node.shell(tools.save, "-c", "-t", "nat").splitlines()
    assert all(line.startswith("[7:420]") for line in saved if "default/web:http" in line)
    assert sum("default/web:http" in line for line in saved) == 7


def test_a_service_port_that_moves_to_another_local_port(node: Network, tools: Tools) -> None:
    sync(node, [WEB], [PortalBinding(WEB.name, 50000, WEB.portals)])
    moved = {
        table: {chain: [rule.replace("41234", "50000") for rule in rules] for chain, rules in chains.items()}
        for table, chains in WEB_RULES.items()
    }
    assert kernel(node, tools) == moved


def test_a_specific_bind_address(node: Network, tools: Tools) -> None:
    with_driver(node, lambda driver: driver.sync([WEB]), bind_address="192.0.2.10")
    rules = kernel(node, tools)["nat"]
    assert rules["KUBE-NODEPORT-CONTAINER"][0].endswith("-j DNAT --to-destination 192.0.2.10:41234")
    assert "REDIRECT" not in str(rules)


def test_the_host_address_is_looked_up_at_each_sync(node: Network, tools: Tools) -> None:
    async def work(driver: IptablesDriver) -> None:
        await driver.sync([WEB])
        for command in ("add 192.0.2.20/24", "del 192.0.2.10/24"):
            shell("ip", "address", *command.split(), "dev", "eth0")
        shell("ip", "route", "add", "default", "via", "192.0.2.1", "src", "192.0.2.20", "metric", "1")
        await driver.sync([WEB])

    node.shell("sysctl", "-qw", "net.ipv4.conf.eth0.promote_secondaries=1")
    with_driver(node, work)
    assert kernel(node, tools)["nat"]["KUBE-NODEPORT-HOST"][0].endswith("192.0.2.20:41234")


def test_local_ports_of_an_earlier_process(node: Network, tools: Tools) -> None:
    sync(node, [WEB, cluster_ip_binding(1)])
    assert with_driver(node, lambda driver: driver.local_ports()) == {
        WEB_NAME: 41234,
        cluster_ip_binding(1).name: 10001,
    }


def test_local_ports_where_nobody_was_before(node: Network, tools: Tools) -> None:
    assert with_driver(node, lambda driver: driver.local_ports()) == {}


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

    many = [cluster_ip_binding(number) for number in range(100)]
    with ThreadPoolExecutor(1) as pool:
        # A thread belongs to the network of the thread that starts it.
        writing = node.run(lambda: pool.submit(write))
        try:
            for _ in range(5):
                sync(node, [WEB, *many], [WEB], [WEB, many[0]], [])
        finally:
            enough.set()
        foreign = writing.result()
    sync(node, [WEB])
    after = kernel(node, tools)
    assert len(after["nat"].pop("OTHER")) == foreign
    assert after == WEB_RULES


KILLED = """
import asyncio, sys
from tests.portals.examples import cluster_ip_binding
from userproxy.portals.iptables import IptablesDriver

async def main():
    driver = IptablesDriver("0.0.0.0")
    number = 0
    while True:
        number += 1
        await driver.sync([cluster_ip_binding(n, 20000 + number) for n in range(number % 7 * 400)])
        print(number, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("rounds", [1, 4])
def test_killed_half_way_the_next_one_converges(node: Network, tools: Tools, rounds: int) -> None:
    foreign = with_foreign_rules(node, tools)

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True)

    with node.run(start) as killed:
        assert killed.stdout is not None
        for _ in range(rounds):
            assert killed.stdout.readline()
        killed.kill()
    assert killed.returncode == -signal.SIGKILL
    sync(node, [WEB])
    after = kernel(node, tools)
    assert without_ours(after) == foreign
    assert {chain: rules for chain, rules in after["nat"].items() if chain.startswith("KUBE-")} == {
        chain: rules for chain, rules in WEB_RULES["nat"].items() if chain.startswith("KUBE-")
    }


def test_cleanup_clears_both_variants(network: Network) -> None:
    both = installed(Family.IPV4)
    before = {}
    for tools in both:
        before[tools.variant] = with_foreign_rules(network, tools)
        text = "".join(
            f"*{table}\n" + "".join(f":{chain} - [0:0]\n-A {chain} -j RETURN\n" for chain in chains) + "COMMIT\n"
            for table, chains in CHAINS.items()
        )
        network.shell(tools.restore, "--noflush", text=text)
    told = network.run(cleanup_all)
    assert {tools.variant: kernel(network, tools) for tools in both} == before
    assert len(told) == 5 * len(both)
    assert "iptables-legacy, table nat: removed the chain KUBE-PORTALS-HOST with 1 rule" in told
    assert network.run(cleanup_all) == []


def test_cleanup_of_a_clean_host_creates_nothing(network: Network) -> None:
    assert network.run(cleanup_all) == []
    assert network.run(lambda: legacy_tables(Family.IPV4)) == frozenset()


def test_cleanup_passes_over_a_variant_that_the_kernel_lacks(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = tmp_path / "iptables-nft-save"
    lacking.write_text("#!/bin/sh\necho 'Failed to initialize nft: Protocol not supported' >&2\nexit 1\n")
    lacking.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    network.shell("iptables-legacy", "-t", "nat", "-N", "KUBE-PORTALS-HOST")
    told = network.run(cleanup_all)
    assert told[1:] == ["iptables-legacy, table nat: removed the chain KUBE-PORTALS-HOST with 0 rules"]
    assert told[0].startswith("iptables-nft: left as it is, because it cannot be read: ")
    assert told[0].endswith("failed with exit status 1: Failed to initialize nft: Protocol not supported")


def test_a_chain_that_a_foreign_rule_leads_to_is_left(node: Network, tools: Tools) -> None:
    sync(node, [WEB])
    node.shell(tools.restore, "--noflush", text="*nat\n-A OUTPUT -o eth0 -j KUBE-PORTALS-HOST\nCOMMIT\n")
    told = with_driver(node, lambda driver: driver.remove())
    assert kernel(node, tools) == {"nat": {"OUTPUT": ["-o eth0 -j KUBE-PORTALS-HOST"]}, "filter": {}}
    assert any(sentence.endswith("leads to it: -A OUTPUT -o eth0 -j KUBE-PORTALS-HOST") for sentence in told)


def test_without_iptables_a_sync_says_so(node: Network, tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> None:
    node.shell("mount", "--bind", str(tmp_path_factory.mktemp("empty")), "/usr/sbin")
    with pytest.raises(KernelToolError, match="iptables is not installed"):
        sync(node, [WEB])


def test_a_rule_that_is_refused_is_reported_and_forgotten(node: Network, tools: Tools) -> None:
    broken = PortalBinding(WEB_NAME, 41234, (Portal(PortalKind.CLUSTER_IP, "999.0.0.1", 80),))
    with pytest.raises(KernelToolError, match="failed with exit status"):
        sync(node, [broken])
    sync(node, [WEB])
    assert kernel(node, tools) == WEB_RULES


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
    many = [cluster_ip_binding(number) for number in range(10)]
    if times == 1:
        sync(node, many)
        assert "RETURN" not in str(kernel(node, tools))
    else:
        with pytest.raises(KernelToolError, match="is not as it was written twice"):
            sync(node, many)


@pytest.mark.parametrize("times", [1, 2])
def test_a_rule_that_vanishes_between_reading_and_writing(
    node: Network, tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    many = [cluster_ip_binding(number) for number in range(10)]
    sync(node, many)
    vanishing = "*nat\\n-D KUBE-PORTALS-HOST 1\\nCOMMIT\\n"
    (tmp_path / "left").write_text("x\n" * times)
    body = f"test -s left && sed -i 1d left && printf '{vanishing}' | run --noflush; run \"$@\""
    monkeypatch.setenv("PATH", meddle(tmp_path, tools.restore, body))
    if times == 1:
        sync(node, [])
        assert "bulk/" not in str(kernel(node, tools))
    else:
        with pytest.raises(KernelToolError, match="failed with exit status"):
            sync(node, [])


def test_the_loop_is_free_while_the_kernel_is_busy(node: Network, tools: Tools) -> None:
    async def work(driver: IptablesDriver) -> float:
        loop = asyncio.get_running_loop()
        longest = 0.0
        syncing = loop.create_future()

        async def run() -> None:
            await driver.sync([cluster_ip_binding(number) for number in range(2000)])
            syncing.set_result(None)

        async with asyncio.TaskGroup() as group:
            group.create_task(run(), name="sync")
            while not syncing.done():
                before = loop.time()
                await asyncio.sleep(0)
                longest = max(longest, loop.time() - before)
        return longest

    assert with_driver(node, work) < 0.5
