"""A table that refuses the rules of some: all others stand, in every variant; and kernels that lack a part."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec import structs
from structlog.testing import capture_logs

from tests.portals.conftest import Network, shell
from tests.portals.examples import REJECT, WEB_NAME, cluster_ip_binding, in_family, led_to, web
from tests.portals.iptables.test_driver import kernel, with_driver
from userproxy.errors import KernelToolError
from userproxy.model import IPFamily, Portal, PortalBinding, PortalKind, Protocol, ServicePortName
from userproxy.portals.iptables.driver import IptablesDriver
from userproxy.portals.iptables.parser import parse_save
from userproxy.portals.iptables.variant import Tools

MANY = 20
"""More than libiptc is given: iptables-restore writes them."""

CURSED = ServicePortName("default", "cursed", "", Protocol.TCP)

PROGRAM = r"""#!/bin/sh
cd {directory}
input=input.$$
cat > $input
if test -e refuse && grep -q -e '{text}' $input; then
    echo refused >> runs
    echo "iptables-restore: line {line} failed" >&2
    exit 1
fi
echo written >> runs
exec {restore} "$@" < $input
"""


def refusing(directory: Path, tools: Tools, text: str, *, told: bool = False) -> str:
    """A PATH with a restore program that refuses what contains `text`, as a kernel would; it logs its runs.

    It says which line is at fault if `told`; if not, that of the last COMMIT, as legacy tables do.
    """
    line = f"$(grep -n -e '{text}' $input | head -1 | cut -d: -f1)" if told else "$(grep -c '' $input)"
    program = directory / Path(tools.restore).name
    program.write_text(PROGRAM.format(directory=directory, text=text, line=line, restore=tools.restore))
    program.chmod(0o755)
    (directory / "refuse").touch()
    return f"{directory}:{os.environ['PATH']}"


def runs(directory: Path) -> list[str]:
    """What became of each run since the last call."""
    file = directory / "runs"
    lines = file.read_text().split() if file.exists() else []
    file.unlink(missing_ok=True)
    return lines


def bulk(family: IPFamily, first: int = 0) -> list[PortalBinding]:
    return [cluster_ip_binding(number, family=family) for number in range(first, first + MANY)]


def broken(family: IPFamily, name: ServicePortName = CURSED) -> PortalBinding:
    """An address that no iptables takes, as from a value that nobody has checked."""
    return led_to(name, 41000, [Portal(PortalKind.CLUSTER_IP, in_family("10.96.0.9", family) + "99999", 80)])


def names(bindings: Sequence[PortalBinding]) -> set[str]:
    return {str(binding.name) for binding in bindings}


def served(tools: Tools) -> set[str]:
    """The service ports that have rules in the chain for the host's cluster IPs, in the caller's network."""
    rules = parse_save(shell(tools.save, "-t", "nat"))["nat"]["KUBE-PORTALS-HOST"]
    return {rule.split("--comment ")[1].split()[0].strip('"') for rule in rules}


def test_bad_addresses_cost_their_own_services(node: Network, tools: Tools) -> None:
    good, hexed = bulk(tools.family), structs.replace(CURSED, name="hexed")

    async def work(driver: IptablesDriver) -> None:
        done = await driver.sync([*good[:10], broken(tools.family), broken(tools.family, hexed), *good[10:]])
        assert done.differed
        assert set(done.refused) == {CURSED, hexed}
        assert "failed with exit status" in done.refused[CURSED]
        assert served(tools) == names(good)
        assert (await driver.sync([], [hexed])).refused.keys() == {CURSED}
        assert (await driver.sync([], [CURSED])).refused == {}

    with_driver(node, tools, work)


def test_one_small_change_that_is_refused(node: Network, tools: Tools) -> None:
    """On the legacy variant of IPv4 it is libiptc that refuses, and says no line."""

    async def work(driver: IptablesDriver) -> None:
        await driver.sync([web(tools.family)])
        assert (await driver.sync([web(tools.family), broken(tools.family)], verify=False)).refused.keys() == {CURSED}
        other = cluster_ip_binding(1, family=tools.family)
        await driver.sync([web(tools.family), broken(tools.family), other], verify=False)
        assert served(tools) == names([web(tools.family), other])

    with_driver(node, tools, work)


@pytest.mark.parametrize("told", [True, False])
def test_what_the_kernel_refuses_is_left_out_until_it_is_another(
    node: Network, tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    good, more = bulk(tools.family), bulk(tools.family, MANY)
    cursed = structs.replace(cluster_ip_binding(1000, family=tools.family), name=CURSED)
    monkeypatch.setenv("PATH", refusing(tmp_path, tools, "default/cursed", told=told))

    async def work(driver: IptablesDriver) -> None:
        assert (await driver.sync([*good, cursed], verify=False)).refused.keys() == {CURSED}
        assert 3 <= runs(tmp_path).count("refused") <= 10
        assert served(tools) == names(good)
        for verify in (False, True):
            assert (await driver.sync([*good, *more, cursed], verify=verify)).refused.keys() == {CURSED}
        assert runs(tmp_path) == ["written"], "it is not tried with every other change"
        assert served(tools) == names([*good, *more])
        (tmp_path / "refuse").unlink()
        assert (await driver.sync([*good, *more, cursed])).refused.keys() == {CURSED}, "its time has not come"
        moved = structs.replace(cursed, portals=tuple(structs.replace(each, port=81) for each in cursed.portals))
        assert (await driver.sync([*good, *more, moved], verify=False)).refused == {}
        assert served(tools) == names([*good, *more, moved])

    with_driver(node, tools, work)


def test_what_stood_stands_while_the_others_are_looked_for(
    node: Network, tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each input of iptables-restore is looked at: none takes rules away."""
    good, more = bulk(tools.family), bulk(tools.family, MANY)
    cursed = structs.replace(more.pop(), name=CURSED)
    path = refusing(tmp_path, tools, "default/cursed")
    program = tmp_path / Path(tools.restore).name
    program.write_text(program.read_text().replace("cat > $input\n", "cat > $input\ncat $input >> inputs\n"))
    monkeypatch.setenv("PATH", path)

    async def work(driver: IptablesDriver) -> None:
        await driver.sync(good)
        (tmp_path / "inputs").unlink()
        await driver.sync([*good, *more, cursed])
        assert served(tools) == names([*good, *more])

    with_driver(node, tools, work)
    written = (tmp_path / "inputs").read_text().splitlines()
    assert not [line for line in written if line.startswith(("-D", "-F", "-X")) and "KUBE-PORTALS-PROBE" not in line]
    assert "KUBE-PORTALS-PROBE" not in node.shell(tools.save), "it leaves no trace"


def test_a_table_that_refuses_everything_is_an_error(
    node: Network, tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", refusing(tmp_path, tools, "COMMIT"))

    async def work(driver: IptablesDriver) -> None:
        with pytest.raises(KernelToolError, match="failed with exit status 1"):
            await driver.sync(bulk(tools.family))
        (tmp_path / "refuse").unlink()
        assert (await driver.sync(bulk(tools.family))).refused == {}

    with_driver(node, tools, work)
    assert node.run(lambda: served(tools)) == names(bulk(tools.family))


def test_where_no_rule_of_anybody_is_taken_it_is_an_error(
    node: Network, tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chains and jumps are written, but that serves nobody."""
    monkeypatch.setenv("PATH", refusing(tmp_path, tools, "--comment bulk/\\|--comment .bulk/"))
    with pytest.raises(KernelToolError, match="failed with exit status 1"):
        with_driver(node, tools, lambda driver: driver.sync(bulk(tools.family)))


def test_a_name_that_no_rule_can_bear_costs_its_own_service(node: Network, tools: Tools) -> None:
    unspeakable = structs.replace(web(tools.family), name=structs.replace(WEB_NAME, name='a" -j DROP'))

    async def work(driver: IptablesDriver) -> None:
        for _ in range(2):
            done = await driver.sync([unspeakable, *bulk(tools.family)])
            assert done.refused.keys() == {unspeakable.name}
            assert "cannot be the comment of an iptables rule" in done.refused[unspeakable.name]
        assert served(tools) == names(bulk(tools.family))

    with_driver(node, tools, work)


def everything(family: IPFamily) -> list[PortalBinding]:
    """Portals of every kind, some of them refused, and a UDP listener that nobody may write to directly."""
    refused = structs.replace(cluster_ip_binding(1000, family=family), internal=REJECT, external=REJECT, on_node=REJECT)
    dns = ServicePortName("default", "dns", "", Protocol.UDP)
    udp = led_to(dns, 45353, [Portal(PortalKind.CLUSTER_IP, in_family("10.96.0.53", family), 53)])
    return [web(family), refused, udp, *bulk(family)]


@pytest.mark.parametrize(
    ("lacking", "gone", "module"),
    [
        (["-j REJECT"], ["-j REJECT"], "ipt_REJECT"),
        (["-m addrtype"], ["addrtype"], "xt_addrtype"),
        (["-j REJECT", "-m addrtype"], ["-j REJECT", "addrtype"], "xt_addrtype"),
    ],
)
def test_a_kernel_that_lacks_a_part_gets_all_other_rules_and_it_is_said_once(
    node: Network,
    tools: Tools,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lacking: list[str],
    gone: list[str],
    module: str,
) -> None:
    with_driver(node, tools, lambda driver: driver.sync(everything(tools.family)))
    whole = kernel(node, tools)
    with_driver(node, tools, lambda driver: driver.remove())
    pattern = "\\|".join(text.replace("-", "[-]", 1) for text in lacking)
    monkeypatch.setenv("PATH", refusing(tmp_path, tools, pattern))

    async def work(driver: IptablesDriver) -> None:
        for verify in (False, True, False, True):
            assert (await driver.sync(everything(tools.family), verify=verify)).refused == {}
        more = structs.replace(cluster_ip_binding(2000, family=tools.family), internal=REJECT)
        assert (await driver.sync([*everything(tools.family), more], verify=False)).refused == {}

    with capture_logs() as logs:
        with_driver(node, tools, work)
    warnings = [record for record in logs if record["log_level"] == "warning"]
    assert len(warnings) == len(lacking)
    assert any(module in record["modules"] for record in warnings)
    standing = kernel(node, tools)
    text = str(standing)
    assert not [part for part in gone if part in text]
    assert standing["nat"]["KUBE-PORTALS-HOST"] == [
        rule for rule in whole["nat"]["KUBE-PORTALS-HOST"] if not any(part in rule for part in gone)
    ]
    if "-j REJECT" in lacking:
        dropped = [rule for rule in standing["filter"]["KUBE-PORTALS-FILTER"] if rule.endswith("-j DROP")]
        assert any("bulk/service-1000" in rule for rule in dropped), "not served to somebody else, who may answer"


def test_a_part_that_is_there_again_is_used_again(
    node: Network, tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", refusing(tmp_path, tools, "[-]m addrtype"))
    monkeypatch.setattr("userproxy.portals.iptables.features._AGAIN_AFTER", 0.0)

    async def work(driver: IptablesDriver) -> None:
        await driver.sync(everything(tools.family))
        assert "KUBE-NODEPORT-HOST" not in str(parse_save(shell(tools.save, "-t", "nat"))["nat"]["OUTPUT"])
        (tmp_path / "refuse").unlink()
        await driver.sync(everything(tools.family))
        assert "KUBE-NODEPORT-HOST" in str(parse_save(shell(tools.save, "-t", "nat"))["nat"]["OUTPUT"])

    with capture_logs() as logs:
        with_driver(node, tools, work)
    assert [record for record in logs if record["event"] == "This kernel takes rules with -m addrtype now"]
