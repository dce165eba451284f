"""The start of a proxy, as far as it needs no kernel; tests/e2e has the rest."""

import asyncio
import os
import signal

import pytest

from userproxy.wiring.serve import _stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_a_signal_asks_for_the_stop(number: signal.Signals) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    _stop_on_signals(loop, stop)
    try:
        os.kill(os.getpid(), number)
        await stop.wait()
    finally:
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
