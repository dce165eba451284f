"""What only the nftables driver has: its table, across restarts, kills and cleanups."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lab.cluster import QUICK, Cell, Lab
from tests.lab.drivers import DRIVERS
from userproxy.demo.traffic import fetch
from userproxy.demo.waiting import eventually

pytestmark = pytest.mark.e2e

WEB = ("10.96.0.10", 80)
TABLE = ("nft", "list", "table", "ip", "userproxy")


@pytest.fixture
def nft_lab(root: None, tmp_path: Path) -> Iterator[Lab]:
    with ExitStack() as stack:
        made = Lab(tmp_path / "manifests", stack, cell=Cell(DRIVERS["nftables"]))
        made.serve_http()
        for number in range(20):
            made.manifests.service(f"web-{number}", ports=1, cluster_ip=f"10.96.1.{number}")
            made.manifests.slice(f"web-{number}", made.pods)
        made.manifests.service("web", cluster_ip=WEB[0], node_port=30080)
        made.manifests.slice("web", made.pods)
        yield made


def table(lab: Lab) -> list[str]:
    """The lines of our table; elements of a set are in no order."""
    return sorted(line.strip(" \t,{}") for line in lab.node.run(TABLE, check=False).stdout.splitlines())


def test_what_a_kill_left_is_taken_over_as_it_is(nft_lab: Lab) -> None:
    first = nft_lab.node.start_userproxy(*QUICK)
    nft_lab.node.wait_for_portal(WEB[0])
    before = nft_lab.node.standing()
    ports = nft_lab.node.local_ports()
    first.close()
    assert nft_lab.node.standing() == before
    nft_lab.node.start_userproxy(*QUICK)
    eventually(lambda: fetch(nft_lab.client, WEB, 1.0).pod, 30, "served again")
    assert nft_lab.node.local_ports() == ports


def test_a_stop_leaves_nothing_and_cleanup_takes_what_a_kill_left(nft_lab: Lab) -> None:
    proxy = nft_lab.node.start_userproxy(*QUICK)
    nft_lab.node.wait_for_portal(WEB[0])
    assert fetch(nft_lab.client, WEB).pod
    assert proxy.terminate() == 0
    assert table(nft_lab) == []
    killed = nft_lab.node.start_userproxy(*QUICK)
    nft_lab.node.wait_for_portal(WEB[0])
    killed.close()
    said = nft_lab.node.userproxy("cleanup").stdout
    assert "removed the table ip userproxy" in said
    assert table(nft_lab) == []


def test_a_change_goes_while_others_change_their_own_rules(nft_lab: Lab) -> None:
    """As container runtimes do with every Pod."""
    proxy = nft_lab.node.start_userproxy(*QUICK)
    nft_lab.node.wait_for_portal(WEB[0])
    nft_lab.node.run(["nft", "add", "table", "ip", "theirs"])
    nft_lab.manifests.service("new", cluster_ip="10.96.2.1")
    nft_lab.manifests.slice("new", nft_lab.pods)
    nft_lab.node.wait_for_portal("10.96.2.1")
    eventually(lambda: fetch(nft_lab.client, ("10.96.2.1", 80), 1.0).pod, 30, "served")
    assert not any("repaired" in record["event"] for record in proxy.records)
    assert "theirs" in nft_lab.node.run(["nft", "list", "tables"]).stdout
