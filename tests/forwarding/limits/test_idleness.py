"""Connections on which nothing is said: real ones, over a forwarder of one process."""

import asyncio

from tests.forwarding.conftest import Connected, Serve, eventually
from tests.forwarding.limits.bench import limited, turns
from userproxy.model import Limits
from userproxy.model.reports import Outcome


async def test_connections_of_which_nothing_is_heard_are_reset_and_others_go_on(serve: Serve) -> None:
    async with limited(serve, Limits(idle=3.0)) as bench:
        quiet, busy = await Connected.to(bench.port), await Connected.to(bench.port)
        while await busy.is_alive():
            await asyncio.sleep(0.05)
            if (await bench.reasons(Outcome.TIMED_OUT)) == ["nothing was said for 3 s (userproxy.io/idle-timeout)"]:
                break
        assert await busy.is_alive()
        assert not await quiet.is_alive()
        bench.limit(None)
        await turns()
        busy.writer.close()


async def test_an_idle_limit_is_for_connections_that_were_there_before_too(serve: Serve) -> None:
    async with limited(serve, None) as bench:
        before = await Connected.to(bench.port)
        bench.limit(Limits(idle=0.3))
        await eventually(lambda: bench.forwarder.active == 0)
        assert not await before.is_alive()
