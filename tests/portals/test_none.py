import pytest

from tests.portals.examples import REJECT, WEB, WEB_NAME, serve
from userproxy.model import IPFamily, LocalTraffic, PortalBinding
from userproxy.portals.interface import DriverOptions
from userproxy.portals.none import NoPortals


async def test_each_service_port_is_told_once_until_it_moves(capsys: pytest.CaptureFixture[str]) -> None:
    driver = NoPortals(DriverOptions(IPFamily.IPV4, "127.0.0.1"))
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
    driver = NoPortals(DriverOptions(IPFamily.IPV6, "::1"))
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
