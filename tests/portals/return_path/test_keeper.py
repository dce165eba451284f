"""The way back is kept: repaired after others have changed it, and fitted to what is around the host."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.portals.conftest import Network, shell
from tests.portals.return_path.conftest import CLIENT, Pods
from userproxy.addresses import IPFamily
from userproxy.model import LocalTraffic, Protocol, ReturnPath
from userproxy.portals.return_path.keeper import ReturnPathKeeper
from userproxy.portals.return_path.marks import DEFAULT

FAMILIES = pytest.mark.parametrize("family", IPFamily)
_SECONDS = 20.0

STATE = "nft list ruleset; ip rule; ip -6 rule; ip route show table 61117; ip -6 route show table 61117; true"


def state() -> str:
    return shell("sh", "-c", STATE)


def kept(node: Network, family: IPFamily, disturb: Callable[["Kept"], None]) -> "Kept":
    """A keeper at work while `disturb` is done in a thread of the node's network."""
    result = Kept()

    async def scenario() -> None:
        keeper = ReturnPathKeeper(family, DEFAULT, result.paths.append, guard=False)
        result.keeper, result.loop = keeper, asyncio.get_running_loop()
        await keeper.permit()
        await keeper.stand()
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(keeper.watch(), name="watch")
            try:
                await asyncio.to_thread(disturb, result)
            finally:
                watching.cancel()

    node.run_loop(scenario)
    return result


class Kept:
    keeper: ReturnPathKeeper
    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        self.paths: list[ReturnPath] = []

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for it, on the event of the kernel's own time: each look takes a program some milliseconds."""
        deadline = self.loop.time() + _SECONDS
        while not condition():
            assert self.loop.time() < deadline, state()


@FAMILIES
@pytest.mark.parametrize(
    "damage",
    [
        "nft flush ruleset",
        "nft flush chain {ip} userproxy-return-path prerouting",
        "nft delete table bridge userproxy-return-path-{name}",
        "ip {option} rule del pref 5",
        "ip {option} route flush table 61117",
        "ip {option} rule flush; ip {option} rule add pref 32766 lookup main",
    ],
)
def test_what_others_flush_is_made_again(bridged: Pods, family: IPFamily, damage: str) -> None:
    option = "-4" if family is IPFamily.IPV4 else "-6"
    command = damage.format(ip="ip" if option == "-4" else "ip6", option=option, name=family.lower())

    def disturb(result: Kept) -> None:
        stood = state()
        shell("sh", "-c", command)
        result.until(lambda: ours(state()) == ours(stood))

    kept(bridged.node, family, disturb)
    assert bridged.seen(family, Protocol.TCP) == CLIENT[family]


def ours(text: str) -> list[str]:
    """Lines that are ours: of rules and routes those with our number, and all of nftables."""
    routing = [line for line in text.splitlines() if "proto 117" in line]
    tables = [line for line in text.splitlines() if "userproxy" in line or ("\t" in line and ":" not in line)]
    return sorted(routing + tables)


def test_bridges_that_come_and_get_other_addresses_are_followed(routed: Pods) -> None:
    def disturb(result: Kept) -> None:
        assert not any(each.is_bridge for each in result.paths[-1].networks)
        shell("ip", "link", "add", "cbr0", "type", "bridge")
        shell("ip", "address", "add", "10.9.0.1/24", "dev", "cbr0")
        shell("ip", "link", "set", "cbr0", "up")
        result.until(lambda: any(each.answers_rise for each in result.paths[-1].networks))
        shell("ip", "link", "set", "cbr0", "address", "02:aa:bb:cc:dd:ee")
        result.until(lambda: "ether daddr set 02:aa:bb:cc:dd:ee" in state())
        shell("ip", "link", "del", "cbr0")
        result.until(lambda: "bridge userproxy" not in state())

    assert not any(each.is_bridge for each in kept(routed.node, IPFamily.IPV4, disturb).paths[-1].networks)


def test_the_node_as_the_cluster_sees_it_is_followed(bridged: Pods) -> None:
    def disturb(result: Kept) -> None:
        assert result.paths[-1].networks[0].of_pods
        result.loop.call_soon_threadsafe(result.keeper.follow, LocalTraffic(), ["10.1.0.1"])
        result.until(lambda: not result.paths[-1].networks[0].of_pods)

    kept(bridged.node, IPFamily.IPV4, disturb)


def test_once_given_up_nothing_is_repaired(routed: Pods) -> None:
    def disturb(result: Kept) -> None:
        result.loop.call_soon_threadsafe(result.keeper.retire)
        shell("ip", "rule", "del", "pref", "5")
        shell("ip", "link", "set", "pod0", "down")
        asyncio.run_coroutine_threadsafe(asyncio.sleep(1), result.loop).result()
        assert "lookup 61117" not in state()

    assert len(kept(routed.node, IPFamily.IPV4, disturb).paths) == 1


@FAMILIES
def test_all_of_it_is_removed(bridged: Pods, family: IPFamily) -> None:
    before = bridged.node.run(state)

    async def scenario() -> bool:
        keeper = ReturnPathKeeper(family, DEFAULT, lambda path: None)
        await keeper.permit()
        await keeper.stand()
        return await keeper.remove()

    assert bridged.node.run_loop(scenario)
    assert bridged.node.run(state) == before


@pytest.mark.parametrize("begin", [ReturnPathKeeper.permit, ReturnPathKeeper.stand])
def test_nothing_is_made_before_it_is_both_needed_and_permitted(
    routed: Pods, begin: Callable[[ReturnPathKeeper], Awaitable[None]]
) -> None:
    before = routed.node.run(state)

    async def scenario() -> None:
        keeper = ReturnPathKeeper(IPFamily.IPV4, DEFAULT, lambda path: None)
        await begin(keeper)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(keeper.watch(), name="watch")
            await asyncio.to_thread(shell, "ip", "link", "set", "pod0", "down")
            await asyncio.sleep(0.5)
            watching.cancel()

    routed.node.run_loop(scenario)
    assert routed.node.run(state) == before


def test_what_others_have_removed_is_named(bridged: Pods) -> None:
    async def scenario() -> None:
        keeper = ReturnPathKeeper(IPFamily.IPV4, DEFAULT, lambda path: None, guard=False)
        assert await keeper.missing() == ()
        await keeper.permit()
        await keeper.stand()
        assert await keeper.missing() == ()
        await asyncio.to_thread(shell, "ip", "rule", "del", "pref", "5")
        assert await keeper.missing() == ("routing rules and table 61117 for packets to transparent sockets",)
        await asyncio.to_thread(shell, "nft", "flush", "ruleset")
        assert (await keeper.missing())[1:] == ("nftables: rules for packets to transparent sockets",)
        keeper.retire()
        assert await keeper.missing() == ()

    bridged.node.run_loop(scenario)
