"""Who has a gate: service ports whose clients may have to wait, and no others."""

from tests.forwarding.conftest import NAME, Serve
from tests.forwarding.limits.bench import clients, limited
from userproxy.model import Limits


async def test_no_limit_costs_a_service_port_no_gate(serve: Serve) -> None:
    async with limited(serve, Limits(idle=5.0)) as bench:
        share = bench.forwarder._shares.of(NAME.service_port)
        found = []
        for limits in (Limits(idle=5.0), Limits(connections=1), Limits(rate=1.0), None):
            bench.limit(limits)
            found.append(share.gate is not None)
        assert found == [False, True, True, False]


async def test_a_service_that_comes_back_without_limits_has_none_of_before(serve: Serve) -> None:
    """A connection that has outlived the listener keeps the service port's share, and with it the gate."""
    async with limited(serve, Limits(connections=1)) as bench, clients(bench.port, 1) as (old,):
        assert await old.answer() == b"x"
        bench.forwarder.close(NAME)
        port = bench.forwarder.open(NAME)
        bench.limit(None)
        async with clients(port, 3) as several:
            for each in several:
                assert await each.answer() == b"x"
