import subprocess
import sys

import pytest

from tests.portals.conftest import Network
from userproxy.errors import KernelToolError
from userproxy.model import IPFamily
from userproxy.portals.local.routes import LocalRoutes

ADDRESSES = {
    IPFamily.IPV4: [f"10.96.{number // 200}.{number % 200 + 1}" for number in range(450)],
    IPFamily.IPV6: [f"fd00:96::{number + 1:x}" for number in range(450)],
}
SHOW = {IPFamily.IPV4: "-4", IPFamily.IPV6: "-6"}

both = pytest.mark.parametrize("family", list(IPFamily))


@pytest.fixture
def network(network: Network) -> Network:
    network.shell("ip", "link", "set", "lo", "up")
    return network


def listed(network: Network, family: IPFamily) -> str:
    return network.shell("ip", SHOW[family], "route", "show", "table", "local")


@both
def test_addresses_become_local_and_are_so_no_more(network: Network, family: IPFamily) -> None:
    routes, addresses = LocalRoutes(family), ADDRESSES[family]
    before = listed(network, family)
    network.run(lambda: routes.add(addresses))
    assert network.run(routes.standing) == set(addresses)
    assert listed(network, family).count("dev lo proto 117") == len(addresses)
    network.run(lambda: routes.remove(addresses[1:]))
    assert network.run(routes.standing) == set(addresses[:1])
    network.run(lambda: routes.remove(addresses))
    assert listed(network, family) == before


@both
def test_what_stands_already_or_no_more_is_no_error(network: Network, family: IPFamily) -> None:
    routes, addresses = LocalRoutes(family), ADDRESSES[family][:3]
    network.run(lambda: routes.add(addresses[:2]))
    network.run(lambda: routes.add(addresses))
    assert network.run(routes.standing) == set(addresses)
    network.run(lambda: routes.remove(addresses[2:]))
    network.run(lambda: routes.remove(addresses))
    assert network.run(routes.standing) == set()


@both
def test_local_addresses_of_others_are_not_ours(network: Network, family: IPFamily) -> None:
    routes, address = LocalRoutes(family), ADDRESSES[family][0]
    network.shell(
        "ip", SHOW[family], "route", "add", "local", address, "dev", "lo", "table", "local", "proto", "static"
    )
    network.run(lambda: routes.remove([address]))
    assert network.run(routes.standing) == set()
    assert address in listed(network, family)


def test_the_kernel_s_refusal_is_told_in_a_sentence(network: Network) -> None:
    family = IPFamily.IPV6
    network.shell("ip", "link", "set", "lo", "down")
    with pytest.raises(KernelToolError, match="routes cannot be added: Network is down"):
        network.run(lambda: LocalRoutes(family).add(ADDRESSES[family][:1]))


@both
def test_without_the_capability_it_is_named(network: Network, family: IPFamily) -> None:
    program = (
        "from userproxy.model import IPFamily\nfrom userproxy.portals.local.routes import LocalRoutes\n"
        f"LocalRoutes(IPFamily({family.value!r})).add([{ADDRESSES[family][0]!r}])"
    )
    command = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", sys.executable, "-c", program)
    done = network.run(lambda: subprocess.run(command, capture_output=True, text=True, timeout=60, check=False))
    assert "routes cannot be added: that takes the capability CAP_NET_ADMIN" in done.stderr
