"""Two data planes in one process, of which the second takes the first one's place."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from random import Random

import msgspec

from tests.forwarding.conftest import LOOPBACK, LOOPBACK_6
from userproxy.forwarding.assembly.options import ForwardingOptions
from userproxy.forwarding.forwarder import Forwarder
from userproxy.forwarding.handover.giving import Given, Giver
from userproxy.forwarding.handover.taking import Taker
from userproxy.forwarding.handover.values import Item
from userproxy.forwarding.ports.ranges import PortRange
from userproxy.model import IPFamily

_DECODER: msgspec.msgpack.Decoder[Item] = msgspec.msgpack.Decoder(Item)


def a_forwarder(
    *,
    half_open_timeout: float = 60.0,
    bind_portals: bool = False,
    limit: int = 10_000,
    trusted: tuple[str, ...] = (),
    udp_timeout: float | None = None,
) -> Forwarder:
    """One on loopback, as a process has it."""
    addresses = {IPFamily.IPV4: LOOPBACK, IPFamily.IPV6: LOOPBACK_6}
    options = ForwardingOptions(
        addresses,
        PortRange(),
        False,
        half_open_timeout,
        limit,
        bind_portals=bind_portals,
        trusted_proxies=trusted,
        udp_timeout=udp_timeout,
    )
    return Forwarder(asyncio.get_running_loop(), options, Random(1))


def passed(taker: Taker, given: Iterator[Given]) -> None:
    """Take values as they come from another process: through bytes, and with copies of the descriptors."""
    for item, descriptors in given:
        taker.take(_DECODER.decode(msgspec.msgpack.encode(item)), [os.dup(each) for each in descriptors])


async def first(giver: Giver, taker: Taker) -> None:
    """The part that is handed over in slices."""
    async for given in giver.first():
        passed(taker, iter([given]))


async def changed(giver: Giver, taker: Taker) -> list[Item]:
    """What has changed since, in slices, too; the values."""
    items = []
    async for given in giver.changed():
        items.append(given[0])
        passed(taker, iter([given]))
    return items


def rest(old: Forwarder, new: Forwarder, giver: Giver, taker: Taker) -> list[Item]:
    """The part that is handed over in one turn, and the end of the old data plane; the values."""
    given = list(giver.rest())
    passed(taker, iter(given))
    assert taker.is_complete
    taker.complete()
    new.shares_sockets = True
    taker.go_on()
    new.went_on()
    old.forsake()
    new.shares_sockets = False
    return [item for item, _ in given]


async def taken_over(old: Forwarder, **options: object) -> Forwarder:
    """The data plane that has taken `old`'s place."""
    new = a_forwarder(**options)  # type: ignore[arg-type]
    giver, taker = old.hand_over(), new.take_over()
    await first(giver, taker)
    rest(old, new, giver, taker)
    return new


@asynccontextmanager
async def forwarders() -> AsyncIterator[list[Forwarder]]:
    """A list whose data planes are shut down at the end."""
    found: list[Forwarder] = []
    try:
        yield found
    finally:
        for each in found:
            each.shut_down()
