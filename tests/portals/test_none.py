from pathlib import Path

import pytest

from tests.portals.examples import REJECT, WEB, WEB_NAME, serve
from userproxy.model import IPFamily, LocalTraffic, PortalBinding, Protocol, ServicePortName
from userproxy.portals.interface import DriverOptions
from userproxy.portals.none import NoPortals

DNS = PortalBinding(
    ServicePortName("kube-system", "dns", "", Protocol.UDP), WEB.portals[:1], serve(5353), serve(5353), serve(5353)
)


async def test_each_service_port_is_told_once_until_it_moves(capsys: pytest.CaptureFixture[str]) -> None:
    driver = NoPortals(DriverOptions(IPFamily.IPV4, "127.0.0.1"), show=lambda _: None)
    await driver.sync([WEB])
    told = capsys.readouterr().out
    assert "address=127.0.0.1:41234" in told
    assert "cluster IP 10.96.0.10:80, external IP 203.0.113.5:80, node port 30080" in told
    await driver.sync([WEB], verify=False)
    assert capsys.readouterr().out == ""
    moved = serve(50000)
    await driver.sync([PortalBinding(WEB_NAME, WEB.portals, moved, moved, moved)])
    assert "127.0.0.1:50000" in capsys.readouterr().out


async def test_classes_of_traffic_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    driver = NoPortals(DriverOptions(IPFamily.IPV6, "::1"), show=lambda _: None)
    await driver.sync([PortalBinding(WEB_NAME, WEB.portals, REJECT, serve(5001), serve(5002))])
    first, second = capsys.readouterr().out.splitlines()
    assert "[::1]:5001" in first
    assert "external IP 203.0.113.5:80 from other nodes, node port 30080 from other nodes" in first
    assert "[::1]:5002" in second
    assert "external IP 203.0.113.5:80 from this node, node port 30080 from this node" in second


async def test_nothing_else_is_there() -> None:
    driver = NoPortals(DriverOptions(IPFamily.IPV4, "127.0.0.1"))
    driver.set_local_traffic(LocalTraffic())
    assert await driver.local_ports() == {}
    assert await driver.local_addresses() == frozenset()
    assert await driver.remove() == []
    assert driver.rule_counts == {}
    await driver.close()


async def test_a_table_of_everything_is_shown_once() -> None:
    shown: list[str] = []
    driver = NoPortals(DriverOptions(IPFamily.IPV6, "::1"), show=shown.append)
    await driver.sync([])
    assert shown == []
    await driver.sync([WEB, DNS])
    await driver.sync([DNS], gone=[WEB_NAME])
    await driver.sync([WEB])
    assert len(shown) == 1
    heading, first, second = shown[0].splitlines()
    assert heading.split() == ["SERVICE", "PORT", "ADDRESS", "INSTEAD", "OF"]
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in (first, second)}
    assert rows == {
        str(WEB_NAME): ["[::1]:41234", "cluster IP 10.96.0.10:80, external IP 203.0.113.5:80, node port 30080"],
        str(DNS.name): ["[::1]:5353", "cluster IP 10.96.0.10:80"],
    }
    assert {line.index("[::1]") for line in (first, second)} == {heading.index("ADDRESS")}


async def test_the_next_process_is_told_the_ports_of_the_last(tmp_path: Path) -> None:
    options = DriverOptions(IPFamily.IPV4, "127.0.0.1", ports_file=tmp_path / "state" / "ports.json", source="a")
    driver = NoPortals(options, show=lambda _: None)
    assert await driver.local_ports() == {}
    await driver.sync([WEB, DNS])
    unserved = PortalBinding(WEB_NAME, WEB.portals, REJECT, REJECT, REJECT)
    await driver.sync([unserved], gone=[DNS.name])
    assert await NoPortals(options).local_ports() == {WEB_NAME: (41234,), DNS.name: (5353,)}


async def test_of_very_many_at_once_only_the_table_tells_each(capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[str] = []
    driver = NoPortals(DriverOptions(IPFamily.IPV4, "127.0.0.1"), show=shown.append)
    names = [ServicePortName("default", f"s{number}", "", Protocol.TCP) for number in range(102)]
    many = [at(name, 20000 + number) for number, name in enumerate(names)]
    await driver.sync(many[:101])
    (line,) = capsys.readouterr().out.splitlines()
    assert "count=101" in line
    assert len(shown[0].splitlines()) == 102
    moved = [at(name, 30000 + number) for number, name in enumerate(names)]
    await driver.sync(moved)
    assert len(capsys.readouterr().out.splitlines()) == 102, "there is no table any more"


def at(name: ServicePortName, port: int) -> PortalBinding:
    return PortalBinding(name, WEB.portals[:1], serve(port), serve(port), serve(port))
