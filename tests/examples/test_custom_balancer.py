"""The example of a balancer of one's own: short, installed as any package, and does what it says."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from examples.custom_balancer.by_network import ByNetwork
from userproxy.model import Endpoint

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_balancer"
ENDPOINTS = [Endpoint(f"10.244.0.{number}", 8080) for number in range(1, 6)]

ASK = """
from userproxy.forwarding.balancers.installed import installed
print(installed()["by-network"].load().__name__)
"""


def test_it_is_about_thirty_lines() -> None:
    assert len((EXAMPLE / "by_network.py").read_text().splitlines()) <= 32


def test_clients_of_one_network_have_the_same_endpoint() -> None:
    balancer = ByNetwork(ENDPOINTS, [1] * 5)
    for network in ("10.1.2", "10.1.3"):
        assert len({balancer.choose(f"{network}.{host}", ()) for host in range(1, 255)}) == 1
    assert len({balancer.choose(f"2001:db8:1:2::{host:x}", ()) for host in range(1, 255)}) == 1
    assert len({balancer.choose(f"10.1.{number}.1", ()) for number in range(255)}) == 5


def test_who_is_avoided_gets_nobody() -> None:
    balancer = ByNetwork(ENDPOINTS, [1] * 5)
    first = balancer.choose("10.1.2.3", ())
    assert balancer.choose("10.1.2.3", (first,)) != first


BUILDS = tuple(map(int, version("setuptools").split(".")[:2])) >= (70, 1)
"""Whether wheels are built without anything from an index."""


@pytest.mark.skipif(not BUILDS, reason="setuptools before 70.1 builds no wheels itself: make setup brings a newer one")
def test_pip_installs_it_and_userproxy_finds_it(tmp_path: Path) -> None:
    """From a copy: what is built of it would stay in the directory."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for name in ("by_network.py", "pyproject.toml"):
        (source / name).write_text((EXAMPLE / name).read_text())
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True, capture_output=True)
    found = subprocess.run(
        [sys.executable, "-c", ASK], check=True, capture_output=True, text=True, env={"PYTHONPATH": str(target)}
    )
    assert found.stdout.split() == ["ByNetwork"]
