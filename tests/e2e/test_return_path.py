"""The way back for clients' addresses, from the start of a proxy to its stop, its kill, and its successor."""

import signal

import pytest

from tests.lab.cluster import QUICK, Cell, Lab
from tests.lab.drivers import DRIVERS, IPTABLES
from tests.lab.probes import KeptConnection
from tests.lab.proxy import WORKERS, RunningProxy
from userproxy.demo.hosts import Host
from userproxy.demo.traffic import fetch
from userproxy.demo.waiting import eventually
from userproxy.model import IPFamily

pytestmark = pytest.mark.e2e

WEB = ("10.96.0.10", 80)
WEB6 = ("fd00:10:96::10", 80)
TABLE = "61117"


def serve(lab: Lab, *flags: str) -> RunningProxy:
    lab.serve_http()
    lab.manifests.node(lab.node)
    lab.manifests.service("web", cluster_ip=[WEB[0], WEB6[0]])
    for family in IPFamily:
        lab.manifests.slice("web", lab.pods[:1], family=family)
    proxy = lab.node.start_userproxy(*QUICK, *flags)
    lab.node.wait_for_portal(WEB[0])
    lab.node.wait_for_portal(WEB6[0])
    return proxy


def standing(host: Host) -> list[str]:
    """What there is of it: tables, and rules and routes of routing."""
    tables = host.run(["nft", "list", "tables"]).stdout.splitlines()
    asked = [["ip", option, *what] for option in ("-4", "-6") for what in (["rule"], ["route", "show", "table", TABLE])]
    routing = [line for argv in asked for line in host.run(argv, check=False).stdout.splitlines()]
    return sorted(line for line in (*tables, *routing) if "return-path" in line or "proto 117" in line)


def all_of_it(lab: Lab) -> int:
    """Three rules, a route and a table for each family, and one more for its bridges."""
    return 12 if lab.cell.pods == "bridged" else 10


def assert_kept(lab: Lab) -> None:
    assert fetch(lab.client, WEB).client_ip == lab.client.address
    assert fetch(lab.client, WEB6).client_ip == lab.client.address6


@pytest.mark.parametrize(
    "cell",
    [
        Cell(driver, pods)
        for driver in (IPTABLES, DRIVERS["nftables"], DRIVERS["local"])
        for pods in ("bridged", "routed")
    ],
    ids=str,
    indirect=True,
)
def test_it_stands_with_the_portals_and_goes_with_them(lab: Lab) -> None:
    proxy = serve(lab)
    assert len(standing(lab.node)) == all_of_it(lab)
    assert_kept(lab)
    assert proxy.terminate() == 0
    assert standing(lab.node) == []


@pytest.mark.parametrize("cell", [Cell(DRIVERS["nftables"], "bridged")], ids=str, indirect=True)
@pytest.mark.parametrize(
    "damage",
    [
        "nft flush ruleset",
        "ip rule del pref 5; ip -6 rule del pref 5",
        "ip route flush table 61117; ip -6 route flush table 61117",
        "nft delete table ip userproxy-return-path; nft delete table bridge userproxy-return-path-ipv6",
    ],
)
def test_it_heals(lab: Lab, damage: str) -> None:
    serve(lab, "--conntrack-guard=false")
    before = standing(lab.node)
    lab.node.run(["sh", "-c", damage])
    eventually(lambda: standing(lab.node) == before, 20, "it stands again")
    lab.node.wait_for_portal(WEB[0])
    lab.node.wait_for_portal(WEB6[0])
    eventually(lambda: fetch(lab.client, WEB).client_ip == lab.client.address, 20, "the client is seen")
    eventually(lambda: fetch(lab.client, WEB6).client_ip == lab.client.address6, 20, "the client is seen")


def test_cleanup_removes_what_a_killed_proxy_has_left(lab: Lab) -> None:
    proxy = serve(lab, "--conntrack-guard=false")
    proxy.kill()
    assert len(standing(lab.node)) == all_of_it(lab)
    said = lab.node.userproxy("cleanup").stdout
    assert "userproxy-return-path" in said
    assert "packets to transparent sockets" in said
    assert standing(lab.node) == []


def test_what_belongs_to_a_process_goes_with_it(lab: Lab) -> None:
    proxy = serve(lab)
    with KeptConnection(lab.client, WEB) as kept:
        kept.ask()
        lab.node.run(["nft", "flush", "ruleset"])
        kept.ask()
        lab.node.wait_for_portal(WEB[0])  # else its translation has gone with the process, too
        proxy.kill()
        tables = [line for line in standing(lab.node) if "table" in line and "return-path" in line]
        assert bool(tables) == bool(WORKERS), "data processes serve on, and have copies of the socket that owns them"
        if WORKERS:
            kept.ask()
    assert "packets to transparent sockets" in lab.node.userproxy("cleanup").stdout
    assert standing(lab.node) == []


def test_a_kept_connection_outlives_a_restart_and_the_successor_has_it_all(lab: Lab) -> None:
    old = serve(lab, "--drain-timeout", "60s")
    with KeptConnection(lab.client, WEB) as kept:
        kept.ask()
        old.signal(signal.SIGTERM)
        lab.node.start_userproxy(*QUICK)
        old.wait_log("A successor's rules stand", 20)
        kept.ask()
        assert old.running
        assert_kept(lab)
    assert old.wait(20) == 0
    assert len(standing(lab.node)) == all_of_it(lab)
    assert_kept(lab)


def test_what_a_killed_process_had_goes_with_the_last_connection_where_the_next_one_does_without(lab: Lab) -> None:
    """Data processes serve on with what it had; the next control process adopts them, and asks for no way back."""
    old = serve(lab, "--workers", "2")
    with KeptConnection(lab.client, WEB) as kept:
        assert kept.ask().client_ip == lab.client.address
        old.kill()
        flags = ("--workers", "2", "--client-address", "node", "--iptables-sync-period", "1s")
        new = lab.node.start_userproxy(*QUICK, *flags)
        new.wait_log("Data processes are adopted")
        lab.settle(*IPFamily)
        eventually(lambda: fetch(lab.client, WEB).client_ip != lab.client.address, 20, "the new flag counts")
        assert kept.ask().client_ip == lab.client.address
        eventually(lambda: not any("ip6" in each for each in tables(lab)), 60, "nobody needs that of IPv6")
        assert kept.ask().client_ip == lab.client.address
        assert tables(lab)
    eventually(lambda: standing(lab.node) == [], 60, "the last connection that needed it has ended")
    assert new.terminate() == 0


def tables(lab: Lab) -> list[str]:
    return [line for line in standing(lab.node) if line.startswith("table")]


def test_a_successor_that_does_without_removes_it_after_the_last_connection(lab: Lab) -> None:
    old = serve(lab, "--drain-timeout", "60s")
    with KeptConnection(lab.client, WEB) as kept:
        kept.ask()
        old.signal(signal.SIGTERM)
        new = lab.node.start_userproxy(*QUICK, "--client-address", "node", "--iptables-sync-period", "1s")
        old.wait_log("A successor's rules stand", 20)
        kept.ask()
        assert standing(lab.node)
        assert fetch(lab.client, WEB).client_ip != lab.client.address
    assert old.wait(20) == 0
    eventually(lambda: not standing(lab.node), 20, "it is removed")
    assert new.running


def test_it_is_made_for_the_first_service_that_asks(lab: Lab) -> None:
    serve(lab, "--client-address", "node")
    assert standing(lab.node) == []
    assert fetch(lab.client, WEB).client_ip != lab.client.address
    asking = {"userproxy.io/client-address": "auto"}
    lab.manifests.service("asks", cluster_ip="10.96.0.11", annotations=asking)
    lab.manifests.slice("asks", lab.pods[:1])
    lab.node.wait_for_portal("10.96.0.11")
    assert fetch(lab.client, ("10.96.0.11", 80)).client_ip == lab.client.address
    assert fetch(lab.client, WEB).client_ip != lab.client.address


def test_a_live_service_that_asks_has_it(lab: Lab) -> None:
    serve(lab, "--client-address", "node")
    lab.manifests.service("web", cluster_ip=[WEB[0], WEB6[0]], annotations={"userproxy.io/client-address": "keep"})
    eventually(lambda: fetch(lab.client, WEB).client_ip == lab.client.address, 20, "the annotation counts")
    assert standing(lab.node)


def test_another_mark_is_used_and_what_is_none_is_refused(lab: Lab) -> None:
    refused = lab.node.userproxy("run", "--manifests", "/", "--transparent-mark", "0x10/0x1", check=False)
    assert refused.returncode == 2
    assert "--transparent-mark" in refused.stderr
    serve(lab, "--transparent-mark", "0x20/0xf0")
    assert any("fwmark 0x20/0xf0 lookup" in line for line in standing(lab.node))
    assert_kept(lab)


@pytest.mark.parametrize(
    "cell", [Cell(DRIVERS["nftables"], pods) for pods in ("bridged", "routed")], ids=str, indirect=True
)
def test_it_stays_while_a_successor_takes_connections_over(lab: Lab) -> None:
    old = serve(lab)
    with KeptConnection(lab.client, WEB) as kept, KeptConnection(lab.client, WEB6) as kept6:
        kept.ask()
        kept6.ask()
        new = lab.node.start_userproxy(*QUICK, "--takeover")
        new.wait_log("Taken over", 20)
        assert old.wait(20) == 0
        kept.ask()
        kept6.ask()
        eventually(lambda: len(standing(lab.node)) == all_of_it(lab), 20, "the rules are the successor's alone")
        kept.ask()
        kept6.ask()
    assert_kept(lab)
    assert new.terminate() == 0
    assert standing(lab.node) == []
