"""Two processes at the same time, and one place that is left: exactly one of them has it."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from userproxy.forwarding.accept_turns import open_tally
from userproxy.forwarding.limits.counts import LimitCounts

ROUNDS = 300

RACER = """
import asyncio, sys
from userproxy.forwarding.holding import places
from userproxy.forwarding.holding.places import Places
from userproxy.forwarding.limits.counts import LimitCounts
from userproxy.forwarding.limits.flows import FlowLimit
from userproxy.forwarding.limits.gate import Gate
from userproxy.model import Limits, Overflow, Protocol, ServicePortName

places.MOST_HELD = 1

class Nobody:
    count = 0

descriptor, place, kind = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
counts, loop = LimitCounts(descriptor, 2, place), asyncio.new_event_loop()
meet = counts.column(0)
won = []
for number in range(1, 1 + int(sys.argv[4])):
    column = counts.column(number)
    if kind == "held clients":
        admits = Places(ServicePortName("default", "web", "http", Protocol.TCP), lambda _: column, 2).take
    elif kind == "connections":
        gate = Gate(loop, Nobody(), Limits(1, Overflow.REFUSE), 30.0, 2, column)
        admits = lambda: not gate.admit()
    else:
        limit = FlowLimit(ServicePortName("default", "dns", "dns", Protocol.UDP), lambda _: column, 2)
        limit.most = 1
        admits = limit.admits
    meet.hold(number)
    while meet.held_by_others() < number:
        pass
    won.append(int(admits()))
print("".join(map(str, won)))
"""


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = open_tally()
    LimitCounts(descriptor, 2)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("kind", ["connections", "flows", "held clients"])
def test_exactly_one_has_the_last_place(memory: int, kind: str) -> None:
    def command(place: int) -> list[str]:
        return [sys.executable, "-c", RACER, str(memory), str(place), kind, str(ROUNDS)]

    with subprocess.Popen(command(0), stdout=subprocess.PIPE, text=True, pass_fds=[memory]) as one:
        other = subprocess.run(command(1), capture_output=True, check=True, text=True, pass_fds=[memory])
        assert one.stdout is not None
        mine = one.stdout.read().strip()
    each = [int(a) + int(b) for a, b in zip(mine, other.stdout.strip(), strict=True)]
    assert (len(each), each.count(0), each.count(2)) == (ROUNDS, 0, 0)
