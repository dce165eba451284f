"""What balancers of one process have in common."""

import asyncio
from random import Random

from tests.forwarding.conftest import NAME
from userproxy.forwarding.assembly.balancing import Balancing
from userproxy.model import Endpoint, Snapshot, Verdict

ENDPOINTS = tuple(Endpoint(f"10.244.1.{n}", 80) for n in range(8))
CLIENT = "192.0.2.7"


async def test_two_balancers_of_a_service_port_send_a_client_to_the_same_endpoint() -> None:
    balancing = Balancing(asyncio.get_running_loop(), Random(1))
    try:
        one, other = balancing.balancer(), balancing.balancer()
        for each in (one, other):
            each.update(Snapshot(NAME, Verdict.SERVE, ENDPOINTS, 60))
        first = one.pick(CLIENT, 0.0)
        other.pick("192.0.2.8", 0.0)
        assert other.pick(CLIENT, 0.0) == first
    finally:
        balancing.shut_down()


async def test_nothing_is_due_after_the_end() -> None:
    loop = asyncio.get_running_loop()
    balancing = Balancing(loop, Random(1))
    balancing.balancer().update(Snapshot(NAME, Verdict.SERVE, ENDPOINTS, 60))
    assert timers(balancing)
    balancing.shut_down()
    assert not timers(balancing)


def timers(balancing: Balancing) -> bool:
    timer = balancing.affinity._expiry
    return timer is not None and not timer.cancelled()
