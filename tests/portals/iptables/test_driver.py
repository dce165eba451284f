import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.portals.conftest import Network, shell
from tests.portals.examples import (
    EVERYWHERE,
    NODE_IPS,
    WEB_NAME,
    cluster_ip_binding,
    in_family,
    led_to,
    web,
    web_rules,
)
from tests.portals.strategies import binding_lists, local_traffics
from userproxy.errors import KernelToolError
from userproxy.model import IPFamily, Portal, PortalBinding, PortalKind, ServicePortName
from userproxy.portals.interface import DriverOptions
from userproxy.portals.iptables import tables
from userproxy.portals.iptables.chains import CHAINS
from userproxy.portals.iptables.driver import IptablesDriver
from userproxy.portals.iptables.parser import Chains, parse_save
from userproxy.portals.iptables.rules import portal_rules
from userproxy.portals.iptables.variant import Tools, Variant, legacy_tables
from userproxy.portals.programs import save

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
    return node.run(lambda: kernel_here(tools))


def kernel_here(tools: Tools) -> Tables:
    """The same in this thread's network."""
    tables = parse_save(shell(tools.save))
    return {
        table: {chain: rules for chain, rules in tables.get(table, {}).items() if rules} for table in ("nat", "filter")
    }


def with_driver(
    node: Network, tools: Tools, work: Callable[[IptablesDriver], Coroutine[Any, Any, Any]], bind_address: str = ""
) -> Any:
    async def scenario() -> Any:
        driver = IptablesDriver(DriverOptions(tools.family, bind_address or EVERYWHERE[tools.family]))
        try:
            return await work(driver)
        finally:
            await driver.close()

    return node.run_loop(scenario)


def with_gone(
    steps: Iterable[Sequence[PortalBinding]],
) -> Iterator[tuple[Sequence[PortalBinding], set[ServicePortName]]]:
    """Lists of all bindings that there are to be as a driver is told of them: each with what is there no longer."""
    before: set[ServicePortName] = set()
    for bindings in steps:
        names = {binding.name for binding in bindings}
        yield bindings, before - names
        before = names


def sync(node: Network, tools: Tools, *steps: Sequence[PortalBinding]) -> None:
    async def work(driver: IptablesDriver) -> None:
        for bindings, gone in with_gone(steps):
            await driver.sync(bindings, gone)

    with_driver(node, tools, work)


def with_foreign_rules(node: Network, tools: Tools) -> Tables:
    node.shell(tools.restore, "--noflush", text=in_family(FOREIGN, tools.family))
    return kernel(node, tools)


def without_ours(tables: Tables) -> Tables:
    ours = {chain for chains in CHAINS.values() for chain in chains}
    return {
        table: {
            chain: foreign
            for chain, rules in chains.items()
            if chain not in ours and (foreign := [rule for rule in rules if not rule.endswith(tuple(ours))])
        }
        for table, chains in tables.items()
    }


def test_the_worked_example_rule_for_rule(node: Network, tools: Tools) -> None:
    sync(node, tools, [web(tools.family)])
    assert kernel(node, tools) == web_rules(tools.family)


def test_the_other_variant_is_not_touched(node: Network, tools: Tools) -> None:
    sync(node, tools, [web(tools.family)])
    if tools.variant is Variant.LEGACY:
        assert "KUBE-PORTALS" not in node.shell(tools.save.replace("legacy", "nft"))
        assert node.run(lambda: legacy_tables(tools.family)) == {"nat", "filter", "mangle"}
    else:
        assert node.run(lambda: legacy_tables(tools.family)) == frozenset()


def test_foreign_rules_stand_where_they_stood(node: Network, tools: Tools) -> None:
    foreign = with_foreign_rules(node, tools)
    sync(node, tools, [web(tools.family)], [], [web(tools.family), cluster_ip_binding(1, family=tools.family)])
    after = kernel(node, tools)
    assert without_ours(after) == foreign
    assert after["nat"]["PREROUTING"][1:-1] == foreign["nat"]["PREROUTING"]
    removed = with_driver(node, tools, lambda driver: driver.remove())
    assert kernel(node, tools) == foreign
    assert len(removed) == 15
    assert all(sentence.startswith(f"{tools.label}, table ") for sentence in removed)
    assert with_driver(node, tools, lambda driver: driver.remove()) == []


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
    sync(node, tools, [web(tools.family)])
    node.shell(tools.restore, "--noflush", text=in_family(damage, tools.family))
    assert kernel(node, tools) != web_rules(tools.family)
    sync(node, tools, [web(tools.family)])
    assert kernel(node, tools) == web_rules(tools.family)


def test_rules_that_stand_keep_their_counters(node: Network, tools: Tools) -> None:
    if tools.label == "ip6tables-nft":
        pytest.skip("ip6tables-nft-restore 1.8.9 sets no counters")
    sync(node, tools, [web(tools.family)])
    other = cluster_ip_binding(1, family=tools.family)
    counted = [
        line.replace("[0:0]", "[7:420]", 1)
        for line in node.shell(tools.save, "-c", "-t", "nat").splitlines()
        if not line.startswith("#")
    ]
    node.shell(tools.restore, "--counters", text="\n".join([*counted, ""]))
    sync(
        node,
        tools,
        [web(tools.family), other],
        [web(tools.family)],
        [web(tools.family), led_to(other.name, 5, other.portals)],
    )
    saved = node.shell(tools.save, "-c", "-t", "nat").splitlines()
    assert all(line.startswith("[7:420]") for line in saved if "default/web:http" in line)
    assert sum("default/web:http" in line for line in saved) == 6


def test_a_service_port_that_moves_to_another_local_port(node: Network, tools: Tools) -> None:
    sync(node, tools, [web(tools.family)], [web(tools.family, 50000)])
    assert kernel(node, tools) == web_rules(tools.family, 50000)


def test_a_specific_bind_address(node: Network, tools: Tools) -> None:
    with_driver(node, tools, lambda driver: driver.sync([web(tools.family)]), bind_address=NODE_IPS[tools.family])
    rules = kernel(node, tools)["nat"]
    assert rules["KUBE-NODEPORT-CONTAINER"][0].endswith(
        in_family("-j DNAT --to-destination 192.0.2.10:41234", tools.family)
    )
    assert "REDIRECT" not in str(rules)


def test_a_link_without_an_address_makes_all_rules_others_in_one_change(node: Network, tools: Tools) -> None:
    def redirected() -> list[str]:
        return [line for line in shell(tools.save, "-t", "nat").splitlines() if "REDIRECT" in line]

    async def work(driver: IptablesDriver) -> None:
        await driver.sync([web(tools.family), *(cluster_ip_binding(n, family=tools.family) for n in range(3))])
        assert len(redirected()) == 6
        shell("ip", "link", "add", "routed", "type", "bridge")
        await driver.sync([])
        assert len(redirected()) == 6, "it is down"
        shell("ip", "link", "set", "routed", "up")
        with capture_logs() as logs:
            await driver.sync([])
        assert redirected() == []
        assert len([record for record in logs if record["event"] == "Changing iptables rules"]) == 1
        assert [record["links"] for record in logs if "links" in record] == ["routed"]

    with_driver(node, tools, work)
    goal = in_family("192.0.2.10:41234", tools.family)
    assert kernel(node, tools)["nat"]["KUBE-NODEPORT-CONTAINER"][0].endswith(f"-j DNAT --to-destination {goal}")


def test_the_host_address_is_looked_up_at_each_sync(node: Network, tools: Tools) -> None:
    old, new = (in_family(f"192.0.2.{number}", tools.family) for number in (10, 20))
    gateway, length = in_family("192.0.2.1", tools.family), "24" if tools.family is IPFamily.IPV4 else "64"

    async def work(driver: IptablesDriver) -> None:
        await driver.sync([web(tools.family)])
        shell("ip", "address", "add", f"{new}/{length}", "dev", "eth0", *(["nodad"] if ":" in new else []))
        shell("ip", "address", "del", f"{old}/{length}", "dev", "eth0")
        shell("ip", "route", "replace", "default", "via", gateway, "dev", "eth0", "src", new, "metric", "1")
        await driver.sync([web(tools.family)])

    node.shell("sysctl", "-qw", "net.ipv4.conf.eth0.promote_secondaries=1")
    with_driver(node, tools, work)
    assert new in kernel(node, tools)["nat"]["KUBE-NODEPORT-HOST"][0]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_wanted_stands_afterwards(node: Network, tools: Tools, data: st.DataObject) -> None:
    """From one list of bindings to the next, in one kernel: the rules are those and no others, each group in order."""
    local_traffic = data.draw(local_traffics())
    steps = data.draw(st.lists(st.tuples(binding_lists(tools.family), st.booleans()), min_size=1, max_size=3))
    wanted = steps[-1][0]

    async def work(driver: IptablesDriver) -> None:
        driver.set_local_traffic(local_traffic)
        verified = (verify for _, verify in steps)
        for (bindings, gone), verify in zip(with_gone(each for each, _ in steps), verified, strict=True):
            await driver.sync(bindings, gone, verify=verify)

    with_driver(node, tools, work)
    standing = kernel(node, tools)
    expected: dict[tuple[str, str], set[str]] = {}
    for binding in wanted:
        group: dict[tuple[str, str], list[str]] = {}
        for rule in portal_rules(binding, EVERYWHERE[tools.family], NODE_IPS[tools.family], local_traffic):
            group.setdefault((rule.table, rule.chain), []).append(rule.spec)
        for (table, chain), specs in group.items():
            assert [spec for spec in standing[table][chain] if spec in specs] == specs
            expected.setdefault((table, chain), set()).update(specs)
    for table, chains in CHAINS.items():
        for chain in chains:
            assert set(standing[table].get(chain, ())) == expected.get((table, chain), set())


async def test_addresses_are_read_while_the_loop_runs(tools: Tools) -> None:
    driver = IptablesDriver(DriverOptions(tools.family, ""))
    assert {IPFamily.IPV4: "127.0.0.1", IPFamily.IPV6: "::1"}[tools.family] in await driver.local_addresses()
    await driver.close()


def test_a_family_that_serves_nothing_needs_no_address(network: Network, tools: Tools) -> None:
    sync(network, tools, [])
    with pytest.raises(KernelToolError, match=f"no interface that is up has a global {tools.family} address"):
        sync(network, tools, [web(tools.family)])


def test_local_ports_of_an_earlier_process(node: Network, tools: Tools) -> None:
    sync(node, tools, [web(tools.family), cluster_ip_binding(1, family=tools.family)])
    assert with_driver(node, tools, lambda driver: driver.local_ports()) == {
        WEB_NAME: (41234,),
        cluster_ip_binding(1, family=tools.family).name: (10001,),
    }


def test_local_ports_where_nobody_was_before(node: Network, tools: Tools) -> None:
    assert with_driver(node, tools, lambda driver: driver.local_ports()) == {}


def test_once_given_up_nothing_more_is_written_until_it_is_taken_again_to_remove_all(
    node: Network, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(driver: IptablesDriver) -> None:
        def overtaken(program: str, table: str = "") -> str:
            driver.lease.release()
            return save(program, table)

        await driver.sync([web(tools.family)])
        shell(tools.restore, "--noflush", text="*nat\n:FOREIGN - [0:0]\nCOMMIT\n")  # so that there is something to read
        monkeypatch.setattr(tables, "save", overtaken)
        with pytest.raises(KernelToolError, match="given up"):
            await driver.sync([cluster_ip_binding(1, family=tools.family)])
        monkeypatch.setattr(tables, "save", save)
        with pytest.raises(KernelToolError, match="given up"):
            await driver.sync([])
        assert driver.lease.regain(), "a sync must not take it from a successor that is about to come"
        driver.lease.release()
        assert kernel_here(tools) == web_rules(tools.family)
        assert await driver.remove()

    with_driver(node, tools, work)
    assert "KUBE-PORTALS-HOST" not in kernel(node, tools)["nat"]


KILLED = """
import asyncio, sys
from tests.portals.examples import EVERYWHERE, cluster_ip_binding
from userproxy.model import IPFamily
from userproxy.portals.interface import DriverOptions
from userproxy.portals.iptables.driver import IptablesDriver

family = IPFamily(sys.argv[1])

async def main():
    driver = IptablesDriver(DriverOptions(family, EVERYWHERE[family]))
    number = 0
    while True:
        number += 1
        await driver.sync([cluster_ip_binding(n, 20000 + number, family) for n in range(number % 7 * 400)])
        print(number, flush=True)

asyncio.run(main())
"""


def test_a_second_userproxy_of_the_node_leaves_the_rules_of_the_first_alone(node: Network, tools: Tools) -> None:
    async def work(first: IptablesDriver) -> None:
        await first.sync([web(tools.family)])
        second = IptablesDriver(DriverOptions(tools.family, EVERYWHERE[tools.family]))
        with pytest.raises(KernelToolError, match=f"another userproxy keeps the {tools.family} portals"):
            await second.sync([])
        assert len(await second.remove()) == 1
        await second.close()

    with_driver(node, tools, work)
    assert kernel(node, tools) == web_rules(tools.family)


@pytest.mark.parametrize("rounds", [1, 4])
def test_killed_half_way_the_next_one_converges(node: Network, tools: Tools, rounds: int) -> None:
    foreign = with_foreign_rules(node, tools)

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", KILLED, tools.family], stdout=subprocess.PIPE, text=True)

    with node.run(start) as killed:
        assert killed.stdout is not None
        for _ in range(rounds):
            assert killed.stdout.readline()
        killed.kill()
    assert killed.returncode == -signal.SIGKILL
    sync(node, tools, [web(tools.family)])
    after = kernel(node, tools)
    assert without_ours(after) == foreign
    assert {chain: rules for chain, rules in after["nat"].items() if chain.startswith("KUBE-")} == {
        chain: rules for chain, rules in web_rules(tools.family)["nat"].items() if chain.startswith("KUBE-")
    }


def test_a_chain_that_a_foreign_rule_leads_to_is_left(node: Network, tools: Tools) -> None:
    sync(node, tools, [web(tools.family)])
    node.shell(tools.restore, "--noflush", text="*nat\n-A OUTPUT -o eth0 -j KUBE-PORTALS-HOST\nCOMMIT\n")
    told = with_driver(node, tools, lambda driver: driver.remove())
    assert kernel(node, tools) == {"nat": {"OUTPUT": ["-o eth0 -j KUBE-PORTALS-HOST"]}, "filter": {}}
    assert any(sentence.endswith("leads to it: -A OUTPUT -o eth0 -j KUBE-PORTALS-HOST") for sentence in told)


def test_without_iptables_a_sync_says_so(node: Network, tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> None:
    node.shell("mount", "--bind", str(tmp_path_factory.mktemp("empty")), "/usr/sbin")
    with pytest.raises(KernelToolError, match=r"^ip6?tables is not installed"):
        sync(node, tools, [web(tools.family)])


def test_a_rule_that_is_refused_is_reported_and_forgotten(node: Network, tools: Tools) -> None:
    broken = led_to(
        WEB_NAME, 41234, (Portal(PortalKind.CLUSTER_IP, in_family("10.96.0.999", tools.family) + "99", 80),)
    )
    with pytest.raises(KernelToolError, match="failed with exit status"):
        sync(node, tools, [broken])
    sync(node, tools, [web(tools.family)])
    assert kernel(node, tools) == web_rules(tools.family)


def test_the_loop_is_free_while_the_kernel_is_busy(node: Network, tools: Tools) -> None:
    async def work(driver: IptablesDriver) -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        began, longest = loop.time(), 0.0
        syncing = loop.create_future()

        async def run() -> None:
            await driver.sync([cluster_ip_binding(number, family=tools.family) for number in range(2000)])
            syncing.set_result(None)

        async with asyncio.TaskGroup() as group:
            group.create_task(run(), name="sync")
            while not syncing.done():
                before = loop.time()
                await asyncio.sleep(0)
                longest = max(longest, loop.time() - before)
        return longest, loop.time() - began

    longest, whole = with_driver(node, tools, work)
    assert longest < whole / 2
