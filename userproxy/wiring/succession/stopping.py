"""The stop of one process: it lasts until a successor has taken over, or the last client has gone."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog

from userproxy.config import AtStop, Settings
from userproxy.portals.lease import Succession
from userproxy.proxier.family.proxy import FamilyProxy
from userproxy.wiring.forwarding import AnyForwarder
from userproxy.wiring.monitor import Monitor
from userproxy.wiring.portals import remove_portals

log = structlog.get_logger()

_LOOK_EVERY: Final = 0.05
_HANDSHAKE_SECONDS: Final = 1.0
"""How long after a successor's rules are written clients may still arrive that the old rules sent here."""

_TAKE_OVER_SECONDS: Final = 2.0
"""How long a successor that has waited for us may take to take over."""

_ARRIVAL_SECONDS: Final = 0.2
"""How long to wait for a successor that is just about to start."""

_LAST_SHARE: Final = 0.1
"""The share of the drain, at its end, in which nobody is accepted any more, for the clients that came last."""


class Stop:
    """Stops one process. `tasks` are those that run meanwhile, by name.

    `moving_out` is whether another proxy is to serve the node: its rules take time, and ours must not stay then.

    Rules are given up at once. Clients that they still send here are accepted, until a successor's rules send them
    elsewhere, or, if there is no successor, until no client is left, at most for ``--drain-timeout``.
    """

    def __init__(
        self,
        settings: Settings,
        forwarder: AnyForwarder,
        proxies: Sequence[FamilyProxy],
        monitor: Monitor,
        tasks: Mapping[str, asyncio.Task[Any]],
        *,
        moving_out: bool = False,
    ) -> None:
        self._settings = settings
        self._forwarder = forwarder
        self._proxies = proxies
        self._monitor = monitor
        self._tasks = tasks
        self._moving_out = moving_out
        self._ports_closed = False

    async def leave(self) -> bool:
        """Do all of it; returns False if rules are left that should have been removed."""
        clock = asyncio.get_running_loop().time
        serving = [proxy for proxy in self._proxies if proxy.serves]
        log.info("Stopping", connections=self._forwarder.active, udp_flows=self._forwarder.flows)
        self._monitor.leave()
        self._cancel(*(name for proxy in self._proxies for name in proxy.writer_tasks))
        contended = any(proxy.contended for proxy in serving)
        if contended or self._moving_out:
            await self._close_ports()
        await asyncio.gather(*(proxy.give_up() for proxy in serving))
        if self._moving_out:
            return await self._move_out(serving)
        hold = clock() + (_TAKE_OVER_SECONDS if contended else max(self._settings.drain_delay, _ARRIVAL_SECONDS))
        end = hold + self._settings.drain_timeout
        left = await self._serve_on(serving, hold, end)
        # With the last rule connection tracking ends, and clients that are still served would lose their translation.
        await self._drain(min(max(0.0, end - clock()), self._settings.drain_timeout))
        removed = await self._remove(left)
        for proxy in left:
            if proxy.driver.lease is not None:
                proxy.driver.lease.release()
        log.info("Stopped: drained", rules=self._rules_left(len(serving), len(left)) if removed else "not removed")
        return removed

    async def _move_out(self, serving: Sequence[FamilyProxy]) -> bool:
        """Go on until another proxy has had time to write its rules, then remove ours before draining."""
        log.info("Our Node has lost its label: another proxy is to serve it", linger_seconds=self._settings.linger)
        await asyncio.sleep(self._settings.linger)
        removed = await remove_portals((proxy.family, proxy.driver) for proxy in serving)
        await asyncio.sleep(_HANDSHAKE_SECONDS)
        await self._drain(self._settings.drain_timeout)
        removed &= await _remove_return_paths(serving)
        log.info("Stopped: drained", rules="removed" if removed else "not removed")
        return removed

    async def _drain(self, seconds: float) -> None:
        reset = await self._forwarder.drain(seconds)
        if reset:
            log.warning("Connections were reset, because they outlasted --drain-timeout", connections=reset)

    async def _serve_on(self, serving: Sequence[FamilyProxy], hold: float, end: float) -> list[FamilyProxy]:
        """Go on accepting clients as long as any can come; returns the families that no successor has taken over."""
        if any(proxy.driver.lease is None for proxy in serving):
            await asyncio.sleep(self._settings.drain_delay)
            return list(serving)
        clock = asyncio.get_running_loop().time
        last = end - _LAST_SHARE * self._settings.drain_timeout
        left: list[FamilyProxy] = []
        watched = list(serving)
        while watched:
            found = await self._not_taken_over(watched, hold, last)
            ending = [proxy for proxy in found if self._may_end(proxy)]
            left += ending
            watched = [proxy for proxy in found if proxy not in ending and clock() < last]
        return left

    def _may_end(self, proxy: FamilyProxy) -> bool:
        """Whether the process may end. A successor that comes from now on waits until our rules are removed."""
        lease = proxy.driver.lease
        return self._settings.at_stop is AtStop.LEAVE or lease is None or lease.regain()

    async def _not_taken_over(self, serving: Sequence[FamilyProxy], hold: float, last: float) -> list[FamilyProxy]:
        successions = {proxy: Succession(proxy.family) for proxy in serving}
        async with asyncio.TaskGroup() as group:
            watching = [
                group.create_task(succession.watch(), name=f"successor {proxy.family}")
                for proxy, succession in successions.items()
            ]
            await self._until_taken_over_or_idle(successions, hold, last)
            left = [proxy for proxy, succession in successions.items() if not succession.taken]
            for task in watching:
                task.cancel()
        return left

    async def _until_taken_over_or_idle(
        self, by_proxy: Mapping[FamilyProxy, Succession], hold: float, last: float
    ) -> None:
        clock = asyncio.get_running_loop().time
        successions = by_proxy.values()
        while clock() < last:
            if any(succession.taken for succession in successions):
                await self._close_ports()
            nobody = clock() >= hold and not self._forwarder.active
            if all(succession.stands or (nobody and not succession.taken) for succession in successions):
                break
            await asyncio.sleep(_LOOK_EVERY)
        if any(succession.stands for succession in successions):
            log.info("A successor's rules stand", connections=self._forwarder.active)
            for proxy, succession in by_proxy.items():
                if succession.stands:
                    self._forwarder.stand_aside(proxy.family)
            await asyncio.sleep(min(_HANDSHAKE_SECONDS, max(0.0, last - clock())))

    async def _close_ports(self) -> None:
        """Close the ports of health, metrics and health checks, and the admin socket: a successor needs them."""
        if not self._ports_closed:
            self._ports_closed = True
            self._cancel("healthz", "metrics", "admin")
            await asyncio.gather(*(proxy.close_health_checks() for proxy in self._proxies))

    async def _remove(self, left: Sequence[FamilyProxy]) -> bool:
        if self._settings.at_stop is AtStop.LEAVE:
            return True
        removed = await remove_portals((proxy.family, proxy.driver) for proxy in left)
        return await _remove_return_paths(left) and removed

    def _rules_left(self, families: int, left: int) -> str:
        if left < families:
            return "a successor's"
        return "left as they are" if self._settings.at_stop is AtStop.LEAVE else "removed"

    def _cancel(self, *names: str) -> None:
        for name in names:
            if name in self._tasks:
                self._tasks[name].cancel()


async def _remove_return_paths(proxies: Sequence[FamilyProxy]) -> bool:
    return all(await asyncio.gather(*(proxy.remove_return_path() for proxy in proxies)))
