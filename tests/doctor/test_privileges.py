"""Capabilities and the limit of open files."""

import json
import subprocess
import sys

import pytest

from tests.doctor.conftest import drop, found, only
from tests.portals.conftest import Network
from userproxy.config import PortalMode, Settings
from userproxy.doctor.findings import Result
from userproxy.doctor.privileges import capabilities
from userproxy.portals.host import CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, CAP_NET_RAW


def test_root_may_do_all(network: Network) -> None:
    only(found(network, capabilities), Result.OK)


def test_without_net_admin_only_none_serves(network: Network) -> None:
    network.run(lambda: drop(CAP_NET_ADMIN))
    assert "no CAP_NET_ADMIN" in only(found(network, capabilities), Result.FAIL).text
    only(found(network, capabilities, Settings(portals=PortalMode.NONE)), Result.OK)


@pytest.mark.parametrize(
    ("capability", "name", "mode", "other"),
    [
        (CAP_NET_RAW, "CAP_NET_RAW", PortalMode.IPTABLES, PortalMode.NFTABLES),
        (CAP_NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE", PortalMode.LOCAL, PortalMode.NFTABLES),
    ],
)
def test_what_one_driver_needs_is_told_where_it_may_be_taken(
    network: Network, capability: int, name: str, mode: PortalMode, other: PortalMode
) -> None:
    network.run(lambda: drop(capability))
    for each in (mode, PortalMode.AUTO):
        assert name in only(found(network, capabilities, Settings(portals=each)), Result.WARN).text
    only(found(network, capabilities, Settings(portals=other)), Result.OK)


@pytest.mark.parametrize(("limit", "result"), [(500, "fail"), (5000, "warn"), (16_384, "ok")])
def test_the_limit_of_open_files_is_told_with_what_it_is_enough_for(limit: int, result: str) -> None:
    script = (
        f"import resource, msgspec; resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))\n"
        "from userproxy.config import Settings; from userproxy.doctor.privileges import descriptors\n"
        "print(msgspec.json.encode(list(descriptors(Settings()))).decode())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    (outcome,) = json.loads(done.stdout)
    assert outcome["result"] == result
    assert outcome["text"].startswith(f"{limit} files may be open, enough for some {(limit - 64) // 2} connections")
    assert bool(outcome["advice"]) == (result != "ok")
