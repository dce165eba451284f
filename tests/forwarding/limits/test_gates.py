"""Who has a gate: service ports whose clients may have to wait, and no others."""

import asyncio
import os

from tests.forwarding.conftest import NAME, Serve
from tests.forwarding.limits.bench import clients, limited
from userproxy.forwarding.accept_turns import open_tally
from userproxy.forwarding.descriptors import DescriptorBudget
from userproxy.forwarding.limits.counts import LimitCounts
from userproxy.forwarding.limits.gate import Gate
from userproxy.forwarding.limits.gates import Gates
from userproxy.forwarding.shares import Share, Shares
from userproxy.model import Limits, Protocol, ServicePortName


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


class Idle:
    """A connection."""

    def quiet(self) -> tuple[float, float] | None:
        """It is being dialled."""
        return None

    def abort(self, reason: str) -> None:
        """It stays."""


class Crowd:
    """A listener with a client who waits."""

    name = NAME
    holds = 0
    queued = 1
    somebody_waits = True

    def resume(self) -> None:
        """Nobody is let in."""

    def expire_waiting(self, seconds: float, reason: str) -> float | None:
        """It has not waited for so long."""
        return seconds


async def test_many_service_ports_with_somebody_who_waits_are_looked_at_less_often() -> None:
    """Each look takes some 50 us: at 100 a second for each of 320 a process would do nothing else."""
    tally = open_tally()
    loop = asyncio.get_running_loop()
    counts = LimitCounts(tally, 2, 0)
    os.close(tally)
    gates, shares = Gates(loop, 30.0, 2, counts), Shares(DescriptorBudget(loop, 1000), loop.time, 1000)
    waiting: list[tuple[Gate, Crowd]] = []
    kept: list[Share] = []
    ahead: list[float] = []
    for number in range(320):
        share = shares.of(ServicePortName("default", "web", f"p{number}", Protocol.TCP))
        gates.place(share, number)
        gates.follow(share, Limits(connections=1))
        share.add("10.0.0.1", Idle())
        gate, crowd = share.gate, Crowd()
        assert gate is not None
        began = loop.time()
        assert not gate.may_accept(crowd)
        kept.append(share)
        waiting.append((gate, crowd))
        ahead.append((gate.looks_at or began) - began)
    assert min(ahead[-100:]) > 0.05
    assert len(gates.looking) == 320
    for each, its in waiting:
        each.forget(its)
    assert not gates.looking


async def test_one_whose_client_is_to_be_seen_to_at_once_sees_to_it_when_another_comes() -> None:
    loop = asyncio.get_running_loop()
    gates, shares = Gates(loop, 0.0001), Shares(DescriptorBudget(loop, 1000), loop.time, 1000)
    share = shares.of(NAME.service_port)
    gates.follow(share, Limits(connections=1))
    share.add("10.0.0.1", Idle())
    gate, crowds = share.gate, (Crowd(), Crowd())
    assert gate is not None
    assert [gate.may_accept(each) for each in crowds] == [False, False]
    assert gate.looks_at is not None
    for each in crowds:
        gate.forget(each)


async def test_a_place_that_is_another_s_by_now_is_written_to_no_more() -> None:
    """Another control process gives each service port another place, and tells of one after the other."""
    tally = open_tally()
    loop = asyncio.get_running_loop()
    ours, theirs = LimitCounts(tally, 2, 0), LimitCounts(tally, 2, 1)
    os.close(tally)
    gates, shares = Gates(loop, 30.0, 2, ours), Shares(DescriptorBudget(loop, 1000), loop.time, 1000)
    busy, quiet = (shares.of(ServicePortName("default", name, "http", Protocol.TCP)) for name in ("busy", "quiet"))
    for slot, share in enumerate((busy, quiet)):
        gates.place(share, slot)
        gates.follow(share, Limits(connections=10))
    gates.place(quiet, 0)
    for _ in range(10):
        busy.add("10.0.0.1", Idle())
    gates.place(busy, 1)
    assert theirs.column(0).others(is_first=False) == 0, "the quiet one has none"
    assert theirs.column(1).others(is_first=False) == 10


async def test_a_gate_that_is_open_looks_after_nobody_and_writes_no_numbers() -> None:
    """It would write to a place that is another service port's by then, and end clients' time by limits of before."""
    tally = open_tally()
    loop = asyncio.get_running_loop()
    ours, theirs = LimitCounts(tally, 2, 0), LimitCounts(tally, 2, 1)
    os.close(tally)
    gates, shares = Gates(loop, 30.0, 2, ours), Shares(DescriptorBudget(loop, 1000), loop.time, 1000)
    share, resumed = shares.of(NAME.service_port), asyncio.Event()

    class Waiting(Crowd):
        def resume(self) -> None:
            resumed.set()

    gates.place(share, 0)
    gates.follow(share, Limits(connections=1))
    share.add("10.0.0.1", Idle())
    gate = share.gate
    assert gate is not None
    assert not gate.may_accept(Waiting())
    gates.follow(share, None)
    gates.place(share, None)
    await resumed.wait()
    gate.changed(left=False)
    assert gate.looks_at is None
    assert theirs.column(0).others(is_first=False) == 0
