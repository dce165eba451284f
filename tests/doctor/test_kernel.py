"""What is asked of the kernel beside rules."""

import pytest

from tests.doctor.conftest import found, only, results
from tests.lab.lacking import without_lists_of_sockets, without_netfilter
from tests.portals.conftest import Network
from userproxy.config import PortalMode, Settings
from userproxy.doctor.findings import Result
from userproxy.doctor.kernel import conntrack, fullness, modules


def test_all_is_there(network: Network) -> None:
    assert results(found(network, modules)) == [Result.OK] * 2


def test_without_lists_of_sockets(network: Network) -> None:
    network.run(without_lists_of_sockets)
    assert "modprobe tcp_diag udp_diag" in only(found(network, modules), Result.WARN).advice


def test_without_lists_of_connections(network: Network) -> None:
    network.run(without_netfilter)
    assert "nf_conntrack_netlink" in only(found(network, modules), Result.WARN).advice
    only(found(network, modules, Settings(portals=PortalMode.LOCAL)), Result.OK)


def test_connections_are_counted_where_packets_are_translated(network: Network) -> None:
    assert only(found(network, conntrack), Result.OK).text.startswith("0 of ")
    text = only(found(network, conntrack, Settings(portals=PortalMode.LOCAL)), Result.OK).text
    assert text == "--portals local needs no connection tracking"


@pytest.mark.parametrize(
    ("count", "most", "result"),
    [(0, 100, Result.OK), (89, 100, Result.OK), (90, 100, Result.WARN), (5, 0, Result.OK), (None, None, Result.WARN)],
)
def test_a_table_that_is_nearly_full(count: int | None, most: int | None, result: Result) -> None:
    assert fullness(count, most).result is result
