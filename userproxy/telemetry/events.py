"""Kubernetes events (events.k8s.io/v1) about what an operator must act on. Best effort: traffic never waits for one.

As in kube-proxy, at most 1,000 events wait, and each is tried 12 times about 10 s apart. A repeat does not make a new
Event, but raises the count of its series (`event_series`). As in client-go, there are 25 writes about one object, and
then one every five minutes. There is one request at a time, 5 a second after a burst of 10.

What is wrong on every node alike is reported by one of them. Its Event has the same name on all nodes, so the API
server refuses the second one. Each node starts at a random time and waits longer once others were first; after that has
happened a few times in a row, it drops the shared events that wait.
"""

import asyncio
import typing
from collections.abc import Callable
from random import Random
from typing import Final, TypeVar

import msgspec
import structlog
from msgspec import Struct, structs

from userproxy.errors import UserproxyError
from userproxy.model import ServiceName
from userproxy.telemetry.event_series import EventKey, Reason, Regarding, Series, Similar, TokenBucket, clipped
from userproxy.telemetry.timestamps import Clock, Timestamp, micro_time

log = structlog.get_logger()

K = TypeVar("K")
V = TypeVar("V")

_QUEUE: Final = 1000
_REMEMBERED: Final = 4096
"""Objects whose Events are counted. Beyond this, those with the oldest last Event are forgotten."""

_WRITES_OF_OBJECT: Final = (25, 300.0)

_REPORTED_BY_OTHERS: Final = 5
"""After this many in a row that other nodes had reported already, the shared events that wait are dropped."""

_LONGEST_HOLD: Final = 60.0
_CONFLICT: Final = 409

# What the API server's validation allows.
_INSTANCE_CHARACTERS: Final = 128


class Transport(typing.Protocol):
    """Writes objects to the API server.

    Both methods return the HTTP status of the answer, whatever it is, and raise UserproxyError if there was none.
    """

    async def post(self, path: str, body: bytes) -> int:
        """Create an object from JSON."""

    async def patch(self, path: str, body: bytes) -> int:
        """Change an object by a JSON merge patch (RFC 7396, ``application/merge-patch+json``)."""


class RecorderLimits(Struct, frozen=True):
    """How often an event is tried, and about how many seconds apart; the burst and the rate of requests.

    `spread` is the longest time in seconds before the first event is sent that all nodes would report.
    """

    tries: int = 12
    apart: float = 10.0
    burst: int = 10
    per_second: float = 5.0
    spread: float = 10.0


class Recorder:
    """Takes events without waiting, and sends them while :meth:`run` runs.

    `node` is the Node's name and `hostname` the host's; `random` spreads the tries of many nodes. `uid_of` gives the
    uid of a Service or an empty text: ``kubectl describe`` shows only the Events that name it. Of a Node its name is
    taken, as kubelet and kube-proxy do.
    """

    def __init__(
        self,
        transport: Transport,
        node: str,
        hostname: str,
        clock: Clock,
        random: Random,
        limits: RecorderLimits | None = None,
        uid_of: Callable[[ServiceName], str] = lambda _name: "",
    ) -> None:
        self._transport = transport
        self._node = Regarding("Node", node, uid=node)
        self._uid_of = uid_of
        self._instance = f"kube-proxy-{hostname}"[:_INSTANCE_CHARACTERS]
        self._clock = clock
        self._random = random
        self._limits = limits if limits is not None else RecorderLimits()
        self._requests = TokenBucket(self._limits.burst, 1 / self._limits.per_second)
        self._one_at_a_time = asyncio.Lock()
        self._series: dict[EventKey, Series] = {}
        self._similar: dict[tuple[Regarding, Reason], Similar] = {}
        self._writes: dict[Regarding, TokenBucket] = {}
        self._own: asyncio.Queue[Series] = asyncio.Queue(_QUEUE)
        self._shared: asyncio.Queue[Series] = asyncio.Queue(_QUEUE)
        self._dropping = False

    def about_node(self, reason: Reason, note: str = "") -> None:
        """Record an event on our own Node."""
        self._record(EventKey(self._node, reason, clipped(note)))

    def about_service(self, service: ServiceName, reason: Reason, note: str, *, here: bool) -> None:
        """Record an event on a Service; `note` is one sentence for whoever owns it.

        `here` means that other nodes need not have the same: then the note names our Node.
        """
        regarding = Regarding("Service", service.name, service.namespace, self._uid_of(service))
        text = f"Node {self._node.name}: {note}" if here else note
        self._record(EventKey(regarding, reason, clipped(text), shared=not here))

    def _record(self, key: EventKey) -> None:
        now = self._clock()
        similar = _kept(self._similar, (key.regarding, key.reason), Similar)
        key = structs.replace(key, note=similar.combine(key.note, now.monotonic))
        series = self._series.pop(key, None)
        if series is None or series.over(now):
            series = Series(key, now)
        else:
            series.repeat(now)
        self._series[key] = series
        while len(self._series) > _QUEUE:
            del self._series[next(iter(self._series))]
        if not series.queued and series.due(now):
            self._enqueue(series, now)

    def _enqueue(self, series: Series, now: Timestamp) -> None:
        writes = _kept(self._writes, series.key.regarding, lambda: TokenBucket(*_WRITES_OF_OBJECT))
        if series.key.reason is not Reason.NEED_PODS and not writes.take(now.monotonic):
            return
        try:
            (self._shared if series.key.shared else self._own).put_nowait(series)
        except asyncio.QueueFull:
            self._series.pop(series.key)
            if not self._dropping:
                log.warning("Events are dropped until the API server takes those that wait", waiting=_QUEUE)
            self._dropping = True
        else:
            series.queued = True

    async def run(self) -> None:
        """Send what is recorded, one event after the other, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send_own(), name="send own events")
            group.create_task(self._send_shared(), name="send shared events")

    async def _send_own(self) -> None:
        while True:
            await self._deliver(await self._own.get())

    async def _send_shared(self) -> None:
        """Send what all nodes report: begin at a random time, go on while we are first, wait longer if others were."""
        hold, reported_by_others = self._limits.spread, 0
        while True:
            series = await self._shared.get()
            await asyncio.sleep(self._random.uniform(0, hold))
            await self._deliver(series)
            if series.others:
                reported_by_others += 1
                hold = min(_LONGEST_HOLD, max(2 * hold, self._limits.spread / 10))
            elif series.ours:
                hold, reported_by_others = 0.0, 0
            if reported_by_others == _REPORTED_BY_OTHERS:
                self._forget_shared()
            if self._shared.empty():
                hold, reported_by_others = self._limits.spread, 0

    def _forget_shared(self) -> None:
        log.debug("Other nodes tell what is wrong everywhere", v=2, events=self._shared.qsize())
        while not self._shared.empty():
            self._shared.get_nowait().queued = False

    async def _deliver(self, series: Series) -> None:
        self._dropping = False
        for attempt in range(self._limits.tries):
            if attempt:
                await asyncio.sleep(self._limits.apart * self._random.uniform(0.8, 1.2))
            count = series.count
            if await self._send(series):
                series.sent(count, self._clock())
                break
        else:
            log.debug("Event given up", v=1, name=series.name, reason=series.key.reason.value[0])
        series.queued = False
        now = self._clock()
        if 0 < series.sent_count < series.count and series.due(now):
            self._enqueue(series, now)

    async def _send(self, series: Series) -> bool:
        """Whether the API server has answered; one that refuses an Event would refuse it again."""
        try:
            async with self._one_at_a_time:
                await self._wait_for_turn()
                status = await self._write(series)
        except UserproxyError as error:
            log.debug("Event not sent yet", v=4, name=series.name, reason=str(error))
            return False
        if status == 429 or status >= 500:
            return False
        series.ours = status < 400
        series.others = status == _CONFLICT and series.key.shared
        if status >= 400 and not series.others:
            log.debug("Event refused", v=1, name=series.name, reason=series.key.reason.value[0], status=status)
        return True

    async def _wait_for_turn(self) -> None:
        clock = asyncio.get_running_loop().time
        while pause := self._requests.wait(clock()):  # noqa: ASYNC110 -- it is time that is waited for
            await asyncio.sleep(pause)

    async def _write(self, series: Series) -> int:
        """Create the Event, or write its new count; an Event that has expired meanwhile is created anew."""
        if series.ours:
            patch = msgspec.json.encode(series.tail())
            status = await self._transport.patch(f"{series.path}/{series.name}", patch)
            if status != 404:
                return status
        return await self._transport.post(series.path, msgspec.json.encode(self._object(series)))

    def _object(self, series: Series) -> dict[str, object]:
        reason, kind, action = series.key.reason.value
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": series.name, "namespace": series.namespace},
            "eventTime": micro_time(series.first.wall_ns),
            "reportingController": "kube-proxy",
            "reportingInstance": self._instance,
            "action": action,
            "reason": reason,
            "regarding": series.key.regarding.reference(),
            "note": series.key.note,
            "type": kind,
            **series.tail(),
        }


def _kept(memory: dict[K, V], key: K, make: Callable[[], V]) -> V:
    """What is remembered of `key`, which is the newest from now on."""
    found = memory.pop(key, None)
    memory[key] = found = make() if found is None else found
    if len(memory) > _REMEMBERED:
        del memory[next(iter(memory))]
    return found
