"""``python -m examples.benchmarks calls``: how many Python and C functions the data plane calls."""

import asyncio
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import click
import uvloop
from msgspec import Struct

from examples.benchmarks.exchanges import answering, ask
from userproxy.forwarding.assembly.options import ForwardingOptions
from userproxy.forwarding.forwarder import Forwarder
from userproxy.forwarding.ports.ranges import PortRange
from userproxy.model import Endpoint, IPFamily, ListenerName, Protocol, ServicePortName, Snapshot, Verdict

_HOST = "127.0.0.1"

NAME = ListenerName(ServicePortName("default", "bench", "", Protocol.TCP))
"""The listener of a forwarder that is measured without a proxier."""

OPTIONS = ForwardingOptions(
    bind_addresses={IPFamily.IPV4: _HOST},
    port_range=PortRange(0, 0),
    portals_only=False,
    half_open_timeout=60.0,
    descriptor_limit=1000,
)
"""What such a forwarder is told."""


class Calls(Struct):
    """Calls on the loop's thread: of Python functions by name, and of C functions by name."""

    python: Counter[str]
    c: Counter[str]


@click.command()
@click.option("--connections", default=1_000, show_default=True, help="Connections, with a request each.")
@click.option("--at-once", default=16, show_default=True, help="Clients that have one at the same time.")
@click.option("--top", default=12, show_default=True, help="How many functions to name.")
def main(connections: int, at_once: int, top: int) -> None:
    """Calls a connection (connect, a request of 100 bytes, a reply of 1 KiB, close), and calls a request.

    Counted in one process with sys.setprofile() on the loop's thread; clients and the backend are other threads. How
    many events a poll brings is chance, so the last digit is. It is slow, and measures no time.
    """
    each = max(1, connections // at_once)
    of_connections, of_requests = count_calls(each, at_once), count_calls(1, at_once, 1 + each)
    total, opened = each * at_once, at_once / (each * at_once)
    click.echo("           Python        C")
    for name, python, c in (
        ("connection", of_connections.python.total(), of_connections.c.total()),
        (
            "request",
            of_requests.python.total() - opened * of_connections.python.total(),
            of_requests.c.total() - opened * of_connections.c.total(),
        ),
    ):
        click.echo(f"{name:<11}{python / total:6.1f}   {c / total:6.1f}")
    for kind, calls in (("Python", of_connections.python), ("C", of_connections.c)):
        click.echo(f"{kind}, a connection:")
        for name, count in calls.most_common(top):
            click.echo(f"{count / total:8.2f}  {name}")


def count_calls(connections: int, at_once: int, requests: int = 1) -> Calls:
    """The calls for so many connections of each of `at_once` clients, with so many requests each."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_count_calls(connections, at_once, requests))


async def _count_calls(connections: int, at_once: int, requests: int) -> Calls:
    loop = asyncio.get_running_loop()
    forwarder = Forwarder(loop, OPTIONS, Random(1))
    calls = Calls(Counter(), Counter())

    def count(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            calls.python[f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_qualname}"] += 1
        elif event == "c_call":
            calls.c[argument.__qualname__] += 1

    with answering() as backend, ThreadPoolExecutor(at_once) as clients:
        address = _HOST, forwarder.open(NAME)
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (Endpoint(*backend),)))
        try:
            await asyncio.gather(*(loop.run_in_executor(clients, ask, address, 1, 1) for _ in range(at_once)))
            asked = [loop.run_in_executor(clients, ask, address, connections, requests) for _ in range(at_once)]
            sys.setprofile(count)
            await asyncio.gather(*asked)
            while forwarder.active:  # noqa: ASYNC110 -- connections end without a word
                await asyncio.sleep(0.01)
        finally:
            sys.setprofile(None)
            forwarder.shut_down()
    return calls
