"""kill -9 at every write of a sync leaves what the next start converges from."""

import subprocess
import sys

import msgspec
import pytest

from tests.portals.conftest import Network, tools_of, use, with_addresses
from tests.portals.killed import Outcome
from userproxy.model import IPFamily
from userproxy.portals.iptables.variant import Variant

pytestmark = [pytest.mark.slow, pytest.mark.sampled(2)]

FEWEST_WRITES = {"nft": 20, "legacy": 20, "nftables": 3, "local": 4}


@pytest.mark.parametrize("family", list(IPFamily))
@pytest.mark.parametrize("driver", FEWEST_WRITES)
def test_the_next_start_makes_good_whatever_a_death_has_left(network: Network, driver: str, family: IPFamily) -> None:
    """The rules of a Service that nobody touched stand all the time."""
    is_iptables = driver in list(Variant)
    if is_iptables:
        use(network, tools_of(family, Variant(driver)))
    with_addresses(network)
    names = ("iptables", driver) if is_iptables else (driver, "")
    command = [sys.executable, "-m", "tests.portals.killed", *names, str(family)]
    done = network.run(lambda: subprocess.run(command, capture_output=True, text=True, timeout=600))
    assert done.returncode == 0, done.stderr
    outcomes = [msgspec.json.decode(line, type=Outcome) for line in done.stdout.splitlines()]
    assert [each.killed for each in outcomes] == [True] * (len(outcomes) - 1) + [False]
    assert len(outcomes) > FEWEST_WRITES[driver]
    wrong = {number: each for number, each in enumerate(outcomes, 1) if each.lost or each.missing or each.surplus}
    assert wrong == {}
