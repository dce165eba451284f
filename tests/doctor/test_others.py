"""Who else serves a node, or has ports that we need."""

import os
import socket
from contextlib import closing

import pytest

from tests.doctor.conftest import found, only, results
from tests.portals.conftest import Network, tools_of
from tests.portals.iptables.test_other_proxies import KUBE_PROXY
from userproxy.addresses import SocketAddress
from userproxy.config import PortalMode, Settings
from userproxy.doctor.findings import Result
from userproxy.doctor.others import lease, other_proxies, ports
from userproxy.model import IPFamily
from userproxy.portals.iptables.variant import Variant
from userproxy.portals.lease import Lease


@pytest.mark.parametrize("variant", Variant)
def test_rules_of_kube_proxy(network: Network, variant: Variant) -> None:
    only(found(network, other_proxies), Result.OK)
    network.shell(tools_of(IPFamily.IPV4, variant).restore, "--noflush", text=KUBE_PROXY)
    outcome = only(found(network, other_proxies), Result.WARN)
    assert f"IPv4 iptables-{variant}: chain KUBE-SERVICES" in outcome.text
    assert "kube-proxy --cleanup" in outcome.advice
    only(found(network, other_proxies, Settings(proxy_name="userproxy")), Result.OK)


def test_nftables_and_ipvs_of_kube_proxy(network: Network) -> None:
    network.shell("nft", "add", "table", "ip6", "kube-proxy")
    network.shell("ip", "link", "add", "kube-ipvs0", "type", "bridge")
    text = only(found(network, other_proxies), Result.WARN).text
    assert text.endswith(": IPv6 nftables: table kube-proxy, link kube-ipvs0")


def test_who_keeps_the_portals(network: Network) -> None:
    assert [each.text for each in found(network, lease)] == [
        f"{family}: no userproxy keeps the portals of this node" for family in IPFamily
    ]
    kept = Lease(IPFamily.IPV4)
    network.run(kept.take)
    four, six = found(network, lease)
    assert f"(process {os.getpid()}) of user 0 keeps the portals" in four.text
    assert "no userproxy" in six.text
    assert not kept.contended, "it is not noticed"
    assert len(found(network, lease, Settings(portals=PortalMode.NONE))) == 1
    network.run(kept.release)


@pytest.mark.parametrize("listening", ["0.0.0.0", "127.0.0.1", "::", "192.0.2.1"])
@pytest.mark.parametrize("wanted", ["0.0.0.0", "127.0.0.1", "::", "::1"])
def test_a_port_is_free_as_the_kernel_sees_it(network: Network, listening: str, wanted: str) -> None:
    network.shell("ip", "address", "add", "192.0.2.1/32", "dev", "lo")
    settings = Settings(healthz_bind_address=None, metrics_bind_address=SocketAddress(wanted, 10249))
    assert results(found(network, ports, settings)) == [Result.OK]
    with closing(network.run(lambda: listener(listening))):
        expected = Result.OK if network.run(lambda: can_listen(wanted)) else Result.FAIL
        outcome = only(found(network, ports, settings), expected)
    if expected is Result.FAIL:
        assert f"(process {os.getpid()}) listens on" in outcome.text
        assert "--metrics-bind-address" in outcome.advice


def listener(ip: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    return socket.create_server((ip, 10249), family=family, dualstack_ipv6=ip == "::")


def can_listen(ip: str) -> bool:
    try:
        listener(ip).close()
    except OSError:
        return False
    return True


def test_the_ports_of_the_userproxy_that_runs_are_no_failure(network: Network) -> None:
    kept = Lease(IPFamily.IPV4)
    with closing(network.run(lambda: listener("127.0.0.1"))):
        only(found(network, ports), Result.FAIL)
        network.run(kept.take)
        outcomes = found(network, ports)
        network.run(kept.release)
    assert results(outcomes) == [Result.OK] * 2
    assert outcomes[1].text.endswith("the userproxy that runs here")
