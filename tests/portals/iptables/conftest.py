"""What tests of both writers need."""

import fcntl
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

import pytest

from tests.portals.conftest import Network
from userproxy.addresses import IPFamily
from userproxy.portals.iptables.changes import difference
from userproxy.portals.iptables.variant import Tools, Variant, installed
from userproxy.portals.iptables.writers.restore import RestoreWriter


@pytest.fixture
def legacy(network: Network) -> Tools:
    """The legacy programs, and our chains made in an otherwise empty network."""
    found = [tools for tools in installed(IPFamily.IPV4) if tools.variant is Variant.LEGACY]
    if not found:
        pytest.skip("needs the legacy variant of iptables")
    network.run(lambda: RestoreWriter(found[0]).apply(difference({}, [])))
    return found[0]


@pytest.fixture
def held_lock(network: Network, legacy: Tools) -> Iterator[TextIOWrapper]:
    with network.run(Path("/run/xtables.lock").open) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
