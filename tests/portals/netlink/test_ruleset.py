"""What the kernel tells of nf_tables and of the network, and what of it is our own doing, in real namespaces."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest
import uvloop

from tests.portals.conftest import Network, shell
from userproxy.addresses import IPFamily
from userproxy.portals import netlink
from userproxy.portals.conntrack_guard import ConntrackGuard
from userproxy.portals.netlink.network_changes import NetworkChanges, Route, concerns
from userproxy.portals.netlink.notifications import LINK, NFTABLES, Subscription
from userproxy.portals.netlink.ruleset import Ruleset, current_generation

T = TypeVar("T")

loops = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
NewLoop = Callable[[], asyncio.AbstractEventLoop]


def run(network: Network, new_loop: NewLoop, scenario: Callable[[], Coroutine[Any, Any, T]]) -> T:
    def inside() -> T:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(scenario())

    return network.run(inside)


async def directly(work: Callable[[], T]) -> T:
    return work()


class Told:
    """Counts calls, and waits for them."""

    def __init__(self) -> None:
        self.count = 0
        self._event = asyncio.Event()

    def __call__(self) -> None:
        self.count += 1
        self._event.set()

    async def once_more(self) -> None:
        async with asyncio.timeout(20):
            await self._event.wait()
        self._event.clear()


def nft(text: str) -> None:
    shell("nft", "-f", "-", text=text)


OURS = "table ip ours { chain a { }; }\n"


async def watched(scenario: Callable[[Ruleset, Told], Awaitable[None]]) -> None:
    """A table of ours, verified and watched."""
    ruleset, told = Ruleset(lambda touched: touched.table == "ours"), Told()
    nft(OURS)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(ruleset.watch(directly, told), name="watch")
        await asyncio.sleep(0)  # it has begun to listen
        ruleset.verified(ruleset.generation())
        await scenario(ruleset, told)
        task.cancel()


async def beyond(ruleset: Ruleset, told: Told) -> int:
    """How often it was told, once something that is told has come after all that was done before."""
    nft("add rule ip ours a counter")
    await told.once_more()
    return told.count


@loops
def test_others_are_told_of_and_named(network: Network, new_loop: NewLoop) -> None:
    async def scenario(ruleset: Ruleset, told: Told) -> None:
        nft("add rule ip ours a drop")
        await told.once_more()
        assert ruleset.take_authors().startswith("nft (process ")
        assert ruleset.take_authors() == ""
        nft("flush ruleset")
        await told.once_more()

    run(network, new_loop, lambda: watched(scenario))


def test_what_does_not_concern_us_is_not_told(network: Network) -> None:
    async def scenario(ruleset: Ruleset, told: Told) -> None:
        nft("table ip others { chain a { }; }\ntable ip6 others { }")
        assert await beyond(ruleset, told) == 1

    network.run_loop(lambda: watched(scenario))


def test_what_we_wrote_and_what_we_have_verified_is_not_told(network: Network) -> None:
    async def scenario(ruleset: Ruleset, told: Told) -> None:
        with ruleset.syncing():
            before = ruleset.generation()
            nft("add rule ip ours a drop")
            ruleset.wrote(before, 1)
            await asyncio.sleep(0)
        nft("add rule ip ours a accept")
        with ruleset.syncing():
            ruleset.verified(ruleset.generation())
        assert await beyond(ruleset, told) == 1

    network.run_loop(lambda: watched(scenario))


def test_what_others_wrote_between_our_transactions_is_told(network: Network) -> None:
    async def scenario(ruleset: Ruleset, told: Told) -> None:
        with ruleset.syncing():
            before = ruleset.generation()
            nft("add rule ip ours a drop")
            nft("add rule ip ours a counter")
            ruleset.wrote(before, 1)
        await told.once_more()

    network.run_loop(lambda: watched(scenario))


@loops
def test_a_flood_that_the_buffer_is_too_small_for_is_told_and_survived(network: Network, new_loop: NewLoop) -> None:
    async def scenario(ruleset: Ruleset, told: Told) -> None:
        rules = "".join("add rule ip ours a ip saddr 192.0.2.1 tcp dport 80 counter drop\n" for _ in range(4000))
        nft(rules)
        await told.once_more()
        ruleset.verified(ruleset.generation())
        nft("add rule ip ours a drop")
        await told.once_more()

    run(network, new_loop, lambda: watched(scenario))


@loops
def test_a_flood_of_our_own_is_not_told(network: Network, new_loop: NewLoop) -> None:
    async def scenario(ruleset: Ruleset, told: Told) -> None:
        with ruleset.syncing():
            nft("".join("add rule ip ours a ip saddr 192.0.2.1 tcp dport 80 counter drop\n" for _ in range(4000)))
            ruleset.verified(ruleset.generation())
        await asyncio.sleep(0)
        assert await beyond(ruleset, told) == 1

    run(network, new_loop, lambda: watched(scenario))


@loops
def test_lost_messages_are_told_and_later_ones_still_come(network: Network, new_loop: NewLoop) -> None:
    async def scenario() -> None:
        lost, came = Told(), Told()
        subscription = Subscription(netlink.NETFILTER, [NFTABLES], lambda _: came(), lost)
        nft(OURS + "".join("add rule ip ours a ip saddr 192.0.2.1 tcp dport 80 counter drop\n" for _ in range(4000)))
        await lost.once_more()
        await asyncio.sleep(0.1)  # whatever fitted into the buffer is read
        came.count = 0
        nft("add rule ip ours a drop")
        async with asyncio.timeout(20):
            while not came.count:
                await came.once_more()
        subscription.close()

    run(network, new_loop, scenario)


def test_generations_count_transactions(network: Network) -> None:
    def work() -> tuple[int, int]:
        before = current_generation()
        nft(OURS)
        nft("delete table ip ours")
        return before, current_generation()

    before, after = network.run(work)
    assert after == before + 2


CHANGES = (
    "link add eth0 type veth peer name far0",
    "address add 192.0.2.10/24 dev eth0",
    "link set eth0 up",
    "link set far0 up",
    "route add default via 192.0.2.1",
    "address del 192.0.2.10/24 dev eth0",
)


@loops
def test_addresses_and_default_routes_are_told(network: Network, new_loop: NewLoop) -> None:
    async def scenario() -> list[int]:
        looks, told = Told(), Told()

        async def differs() -> bool:
            looks()
            return looks.count > 1

        counts = []
        async with asyncio.TaskGroup() as group:
            task = group.create_task(NetworkChanges(IPFamily.IPV4).watch(differs, told), name="watch")
            await looks.once_more()  # the first look is for what may have happened before
            for command in CHANGES:
                shell("ip", *command.split())
                await told.once_more()
                counts.append(told.count)
            task.cancel()
        return counts

    counts = run(network, new_loop, scenario)
    assert counts == sorted(set(counts)), "each was told"


def test_what_a_pod_brings_is_not_told(network: Network) -> None:
    async def scenario() -> list[bytes]:
        seen: list[bytes] = []
        told = Told()
        groups = (LINK, 5, 7, 9, 11)

        def received(data: bytes) -> None:
            seen.append(data)
            told()

        subscription = Subscription(netlink.ROUTE, groups, received, told)
        shell("ip", "link", "add", "br0", "type", "bridge")
        shell("ip", "link", "set", "br0", "up")
        await told.once_more()
        seen.clear()
        shell("ip", "route", "add", "198.51.100.0/24", "dev", "br0")
        shell("ip", "-6", "address", "add", "fe80::7/64", "dev", "br0", "nodad")
        while len(seen) < 2:
            await told.once_more()
        subscription.close()
        return seen

    seen = network.run_loop(scenario)
    added = Route(254, 1, 24, protocol=3, destination=bytes([198, 51, 100, 0]))  # RTPROT_BOOT
    assert not any(concerns(data, IPFamily.IPV4, lambda route: route.prefix_length == 0) for data in seen)
    assert any(concerns(data, IPFamily.IPV4, lambda route: route == added) for data in seen)


@pytest.mark.parametrize("family", IPFamily)
def test_a_guard_outlives_a_flush_and_goes_with_us(network: Network, family: IPFamily) -> None:
    def tables() -> str:
        return shell("nft", "list", "tables")

    guard = ConntrackGuard(family)
    other = ConntrackGuard(family)
    try:
        network.run(guard.stand)
        network.run(guard.stand)
        network.run(other.stand)
        network.run(lambda: nft("table ip others { }\nflush ruleset"))
        word = "ip6" if family is IPFamily.IPV6 else "ip"
        assert network.run(tables).count(f"table {word} userproxy-guard-") == 2, "one of each process"
        shown = [line.strip() for line in network.shell("nft", "list", "ruleset").splitlines()]
        assert shown.count("ct state invalid") == 2, "a rule that nft prints, and would read again"
    finally:
        guard.close()
        other.close()
    assert network.run(tables) == ""


def test_a_guard_that_is_refused_is_no_error(network: Network) -> None:
    script = (
        "from userproxy.addresses import IPFamily\n"
        "from userproxy.portals.conntrack_guard import ConntrackGuard\n"
        "guard = ConntrackGuard(IPFamily.IPV4)\n"
        "guard.stand(); guard.stand(); guard.close()\n"
    )
    done = network.run(lambda: unprivileged(script))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Established connections may break") == 1


def unprivileged(script: str) -> "subprocess.CompletedProcess[str]":
    command = ["capsh", "--drop=cap_net_admin", "--", "-c", f"\"{sys.executable}\" -c '{script}'"]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=os.getcwd(), timeout=60)
