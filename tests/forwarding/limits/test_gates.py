"""Who has a gate: service ports whose clients may have to wait, and no others."""

from tests.forwarding.conftest import NAME, Serve
from tests.forwarding.limits.bench import limited
from userproxy.model import Limits


async def test_no_limit_costs_a_service_port_no_gate(serve: Serve) -> None:
    async with limited(serve, Limits(idle=5.0)) as bench:
        share = bench.forwarder._shares.of(NAME.service_port)
        found = []
        for limits in (Limits(idle=5.0), Limits(connections=1), Limits(rate=1.0), None):
            bench.limit(limits)
            found.append(share.gate is not None)
        assert found == [False, True, True, False]
