"""What a data process holds for its control process: copies of sockets with which rules of the kernel go."""

import asyncio
from contextlib import aclosing
from typing import Final

import structlog

from userproxy.forwarding.observation.data_plane import LocalDataPlane
from userproxy.forwarding.tcp.dialer import Dial
from userproxy.forwarding.tcp.relay import Relay
from userproxy.forwarding.udp.flow import UdpFlow
from userproxy.model import IPFamily
from userproxy.model.reports import ALL, Source
from userproxy.processes.channel import close_descriptors

log = structlog.get_logger()

_LOOK_EVERY: Final = 5.0
"""Seconds. Nobody may be found twice: what a closed socket has still to send needs the answers, too."""

_LOOKS: Final = 2


class Keeping:
    """Holds copies of the sockets that own a family's way back for clients' addresses, without using them."""

    def __init__(self, plane: LocalDataPlane, group: asyncio.TaskGroup) -> None:
        """`plane` says which connections and flows there are, and `group` is for looking at them."""
        self._plane = plane
        self._group = group
        self._held: dict[IPFamily, list[int]] = {}
        self._looks: dict[IPFamily, asyncio.Task[None]] = {}

    def keep(self, family: IPFamily, descriptors: list[int]) -> None:
        """Hold these in place of a family's earlier ones."""
        if family in self._looks:
            self._looks.pop(family).cancel()
        close_descriptors(self._held.get(family, []))
        self._held[family] = descriptors

    def let_go(self, family: IPFamily) -> None:
        """Hold what there is of a family until no connection or flow keeps its client's address; no new one does."""
        if self._held.get(family) and family not in self._looks:
            self._looks[family] = self._group.create_task(self._until_unused(family), name=f"let go of {family}")

    async def _until_unused(self, family: IPFamily) -> None:
        looks = 0
        while looks < _LOOKS:
            await asyncio.sleep(_LOOK_EVERY)
            looks = 0 if await self._is_used(family) else looks + 1
        del self._looks[family]
        self.keep(family, [])
        log.info("No connection needs the way back for clients' addresses of the process before", family=family)

    async def _is_used(self, family: IPFamily) -> bool:
        async with aclosing(self._plane.members(ALL)) as members:
            async for member in members:
                if _keeps_address(member, family):
                    return True
        return False


def _keeps_address(member: Relay | Dial | UdpFlow, family: IPFamily) -> bool:
    if isinstance(member, UdpFlow):
        undecided = member.trial is not None and not member.trial.decided
        return member.listener.name.family is family and (undecided or member.source is Source.CLIENT)
    dial = member if isinstance(member, Dial) else member.dial
    return dial.name.family is family and dial.source is Source.CLIENT
