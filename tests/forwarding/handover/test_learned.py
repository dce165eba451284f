"""What a data plane has learned goes on in another one."""

from collections.abc import AsyncIterator

import pytest

from tests.forwarding.handover.conftest import a_forwarder, forwarders, taken_over
from userproxy.forwarding.forwarder import Forwarder
from userproxy.model import DirectNetwork, Endpoint, IPFamily, Protocol, ReturnPath

ENDPOINT = Endpoint("10.244.2.5", 80)
PATH = ReturnPath(IPFamily.IPV4, networks=(DirectNetwork("10.244.1.0/24", "cni0"),))
TCP = (Protocol.TCP, IPFamily.IPV4)


@pytest.fixture
async def planes() -> AsyncIterator[list[Forwarder]]:
    async with forwarders() as found:
        found.append(a_forwarder())
        yield found


async def test_ways_back_to_clients_and_ports_to_use_again(planes: list[Forwarder]) -> None:
    (old,) = planes
    old.follow_return_path(PATH)
    old.client_addresses.pairs[TCP].of("cni0", "there", "shop").answer()
    for port in (40_000, 40_001):
        old._tcp.relays.source_ports.note(ENDPOINT, port)
    new = await taken_over(old)
    planes.append(new)
    assert new.client_addresses.paths == (PATH,)
    assert new.client_addresses.pairs[TCP].of("cni0", "there", "shop").answered
    new.follow_return_path(PATH)  # as of its own first look
    assert new.client_addresses.pairs[TCP].of("cni0", "there", "shop").answered
    ports = new._tcp.relays.source_ports
    assert [ports.take(ENDPOINT) for _ in range(3)] == [40_000, 40_001, None]
