"""What the kernel refuses of the way back, tried apart."""

import pytest

from tests.doctor.conftest import drop
from tests.portals.conftest import Network, network
from userproxy.addresses import IPFamily
from userproxy.portals.host import CAP_SYS_ADMIN
from userproxy.portals.return_path.marks import DEFAULT
from userproxy.portals.return_path.trial import Refusals, refusals

__all__ = ["network"]


@pytest.mark.parametrize("family", IPFamily)
def test_this_kernel_refuses_nothing_and_nothing_is_left(network: Network, family: IPFamily) -> None:
    assert network.run(lambda: refusals(family, DEFAULT)) == Refusals()
    assert network.shell("nft", "list", "ruleset") == ""
    assert "61117" not in network.shell("ip", "-4" if family is IPFamily.IPV4 else "-6", "rule")


@pytest.mark.parametrize("family", IPFamily)
def test_without_a_place_of_its_own_nothing_is_tried(network: Network, family: IPFamily) -> None:
    network.run(lambda: drop(CAP_SYS_ADMIN))
    assert network.run(lambda: refusals(family, DEFAULT)) is None
