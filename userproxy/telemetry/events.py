"""Kubernetes events (events.k8s.io/v1) about what an operator must act on. Best effort: traffic never waits for one.

kube-proxy's figures: a queue of 1,000, 12 tries about 10 s apart. A repeat is not a new Event but raises the
count of its series; a series is over when it has been quiet for six minutes, as client-go has it. So are the limits
(client-go's tools/record/events_cache.go): 25 writes about one object and then one every five minutes, and what would
be more than ten similar Events within ten minutes is combined in one. One request at a time, 5 a second after a burst
of 10.

What is wrong on every node alike is told by whoever is first. Its Event has the same name on all nodes, so that the API
server refuses the second one. Nodes start at random times, hold back where others were first, and take the rest as told
when that happens again and again.
"""

import asyncio
import hashlib
import typing
from collections.abc import Callable
from enum import Enum
from random import Random
from typing import Final, TypeVar

import msgspec
import structlog
from msgspec import Struct, structs

from userproxy.errors import UserproxyError
from userproxy.model import ServiceName
from userproxy.telemetry.timestamps import Clock, Moment, micro_time
from userproxy.telemetry.token_bucket import TokenBucket

log = structlog.get_logger()

K = TypeVar("K")
V = TypeVar("V")

_QUEUE: Final = 1000
_SERIES_ENDS_AFTER: Final = 360.0
_REFRESH_AFTER: Final = 1800.0
"""An API server drops an Event an hour after its last write."""

_REMEMBERED: Final = 4096
"""Objects whose Events are counted; the rest is forgotten, longest unheard of first."""

_WRITES_OF_OBJECT: Final = (25, 300.0)
_MOST_SIMILAR: Final = 10
_SIMILAR_WITHIN: Final = 600.0
_COMBINED: Final = "(combined from similar events): "

_TOLD_BY_OTHERS: Final = 5
"""After so many in a row that others had told already, what waits is taken as told, too."""

_LONGEST_HOLD: Final = 60.0
_CONFLICT: Final = 409

# What the API server's validation allows.
_NOTE_BYTES: Final = 1024
_INSTANCE_CHARACTERS: Final = 128
_NAME_CHARACTERS: Final = 253


class Transport(typing.Protocol):
    """The way to the API server.

    Both return the HTTP status of its answer, whatever it is, and raise UserproxyError where there was none.
    """

    async def post(self, path: str, body: bytes) -> int:
        """Create an object from JSON."""

    async def patch(self, path: str, body: bytes) -> int:
        """Change an object by a JSON merge patch (RFC 7396, ``application/merge-patch+json``)."""


class Reason(Enum):
    """Why there is an event: its reason, type and action."""

    STARTING = ("Starting", "Normal", "StartKubeProxy")
    HEALTH_SERVER_FAILED = ("FailedToStartProxierHealthcheck", "Warning", "StartKubeProxy")
    METRICS_SERVER_FAILED = ("FailedToStartMetricServer", "Warning", "StartKubeProxy")
    HEALTH_CHECK_FAILED = ("FailedToStartServiceHealthcheck", "Warning", "Listen")
    PORT_CONFLICT = ("PortConflict", "Warning", "Listen")
    UNSUPPORTED_PROTOCOL = ("UnsupportedProtocol", "Warning", "Listen")
    PORTALS_REFUSED = ("PortalsRefused", "Warning", "WriteRules")
    OUT_OF_DESCRIPTORS = ("OutOfFileDescriptors", "Warning", "Listen")
    BAD_ANNOTATION = ("BadAnnotation", "Warning", "ReadAnnotations")


class Pace(Struct, frozen=True):
    """How often one event is tried, and about how many seconds apart; how many requests there are at once, and then a
    second; within how many seconds the first of what all nodes would tell is sent.
    """

    tries: int = 12
    apart: float = 10.0
    burst: int = 10
    per_second: float = 5.0
    spread: float = 10.0


class _Regarding(Struct, frozen=True):
    """The object that an event is about. A Node's namespace is empty."""

    kind: str
    name: str
    namespace: str = ""

    def reference(self) -> dict[str, str]:
        where = {"namespace": self.namespace} if self.namespace else {}
        return {"apiVersion": "v1", "kind": self.kind, **where, "name": self.name}


class _Key(Struct, frozen=True):
    """What makes two events the same one."""

    regarding: _Regarding
    reason: Reason
    note: str
    shared: bool = False
    """Whether every node would tell the same."""


class _Series:
    """One event and its repeats."""

    def __init__(self, key: _Key, now: Moment) -> None:
        self.key = key
        self.first = now
        self.last = now
        self.count = 1
        self.sent_at = 0.0
        self.sent_count = 0
        self.ours = False
        """Whether the Event was made by us, so that its count is ours to raise."""
        self.others = False
        """Whether another node was first."""
        self.queued = False

    def repeat(self, now: Moment) -> None:
        self.last = now
        self.count += 1

    def over(self, now: Moment) -> bool:
        """A shared one has one name for ever, so it has one series as long as it is remembered."""
        return not self.key.shared and now.monotonic - self.last.monotonic >= _SERIES_ENDS_AFTER

    def due(self, now: Moment) -> bool:
        """A storm of n repeats costs log2(n) requests, and a slow series is written before the API forgets it."""
        return self.count >= 2 * self.sent_count or now.monotonic - self.sent_at >= _REFRESH_AFTER

    def sent(self, count: int, now: Moment) -> None:
        self.sent_at, self.sent_count = now.monotonic, count

    @property
    def namespace(self) -> str:
        """A Node has none, and its events live in ``default``."""
        return self.key.regarding.namespace or "default"

    @property
    def name(self) -> str:
        """Unique by its time, as client-go names events; the same on all nodes where it is shared."""
        suffix = f".{_digest(self.key)}" if self.key.shared else f".{self.first.wall_ns:x}"
        return self.key.regarding.name[: _NAME_CHARACTERS - len(suffix)].rstrip("-.") + suffix

    @property
    def path(self) -> str:
        return f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events"

    def tail(self) -> dict[str, object]:
        """The part that repeats change."""
        if self.count == 1:
            return {}
        return {"series": {"count": self.count, "lastObservedTime": micro_time(self.last.wall_ns)}}


class _Similar:
    """The notes of events that differ in nothing else, those of the last ten minutes."""

    def __init__(self) -> None:
        self._notes: set[str] = set()
        self._combined = ""
        self._last = float("-inf")

    def combine(self, note: str, now: float) -> str:
        """The note to tell instead of `note`: where there are too many, one for all that come."""
        if now - self._last > _SIMILAR_WITHIN:
            self._notes, self._combined = set(), ""
        self._last = now
        if len(self._notes) <= _MOST_SIMILAR:
            self._notes.add(note)
        if len(self._notes) <= _MOST_SIMILAR:
            return note
        self._combined = self._combined or _clipped(_COMBINED + note)
        return self._combined


class Recorder:
    """Takes events without waiting, and sends them while :meth:`run` runs.

    `node` is the Node's name and `hostname` the host's; `random` spreads the tries of many nodes.
    """

    def __init__(
        self,
        transport: Transport,
        node: str,
        hostname: str,
        clock: Clock,
        random: Random,
        pace: Pace | None = None,
    ) -> None:
        self._transport = transport
        self._node = _Regarding("Node", node)
        self._instance = f"kube-proxy-{hostname}"[:_INSTANCE_CHARACTERS]
        self._clock = clock
        self._random = random
        self._pace = pace if pace is not None else Pace()
        self._requests = TokenBucket(self._pace.burst, 1 / self._pace.per_second)
        self._one_at_a_time = asyncio.Lock()
        self._series: dict[_Key, _Series] = {}
        self._similar: dict[tuple[_Regarding, Reason], _Similar] = {}
        self._writes: dict[_Regarding, TokenBucket] = {}
        self._own: asyncio.Queue[_Series] = asyncio.Queue(_QUEUE)
        self._shared: asyncio.Queue[_Series] = asyncio.Queue(_QUEUE)
        self._dropping = False

    def about_node(self, reason: Reason, note: str = "") -> None:
        """Record an event on our own Node."""
        self._record(_Key(self._node, reason, _clipped(note)))

    def about_service(self, service: ServiceName, reason: Reason, note: str, *, here: bool) -> None:
        """Record an event on a Service; `note` is one sentence for whoever owns it.

        `here` means that other nodes need not have the same: then the note names our Node.
        """
        regarding = _Regarding("Service", service.name, service.namespace)
        text = f"Node {self._node.name}: {note}" if here else note
        self._record(_Key(regarding, reason, _clipped(text), shared=not here))

    def _record(self, key: _Key) -> None:
        now = self._clock()
        similar = _kept(self._similar, (key.regarding, key.reason), _Similar)
        key = structs.replace(key, note=similar.combine(key.note, now.monotonic))
        series = self._series.pop(key, None)
        if series is None or series.over(now):
            series = _Series(key, now)
        else:
            series.repeat(now)
        self._series[key] = series
        while len(self._series) > _QUEUE:
            del self._series[next(iter(self._series))]
        if not series.queued and series.due(now):
            self._enqueue(series, now)

    def _enqueue(self, series: _Series, now: Moment) -> None:
        writes = _kept(self._writes, series.key.regarding, lambda: TokenBucket(*_WRITES_OF_OBJECT))
        if not writes.take(now.monotonic):
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
        """What every node tells: begin at a random time, go on while we are first, hold back where others were."""
        hold, told_by_others = self._pace.spread, 0
        while True:
            series = await self._shared.get()
            await asyncio.sleep(self._random.uniform(0, hold))
            await self._deliver(series)
            if series.others:
                told_by_others += 1
                hold = min(_LONGEST_HOLD, max(2 * hold, self._pace.spread / 10))
            elif series.ours:
                hold, told_by_others = 0.0, 0
            if told_by_others == _TOLD_BY_OTHERS:
                self._forget_shared()
            if self._shared.empty():
                hold, told_by_others = self._pace.spread, 0

    def _forget_shared(self) -> None:
        log.debug("Other nodes tell what is wrong everywhere", v=2, events=self._shared.qsize())
        while not self._shared.empty():
            self._shared.get_nowait().queued = False

    async def _deliver(self, series: _Series) -> None:
        self._dropping = False
        for attempt in range(self._pace.tries):
            if attempt:
                await asyncio.sleep(self._pace.apart * self._random.uniform(0.8, 1.2))
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

    async def _send(self, series: _Series) -> bool:
        """Whether the API server has decided; one that refuses an Event would refuse it again."""
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

    async def _write(self, series: _Series) -> int:
        """Create the Event, or write its new count; an Event that has expired meanwhile is created anew."""
        if series.ours:
            patch = msgspec.json.encode(series.tail())
            status = await self._transport.patch(f"{series.path}/{series.name}", patch)
            if status != 404:
                return status
        return await self._transport.post(series.path, msgspec.json.encode(self._object(series)))

    def _object(self, series: _Series) -> dict[str, object]:
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


def _digest(key: _Key) -> str:
    """What tells a shared event from others about the same Service; all combined ones of a reason are one."""
    note = _COMBINED if key.note.startswith(_COMBINED) else key.note
    text = "\0".join((key.regarding.namespace, key.regarding.name, key.reason.value[0], note))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _kept(memory: dict[K, V], key: K, make: Callable[[], V]) -> V:
    """What is remembered of `key`, now as the newest."""
    found = memory.pop(key, None)
    memory[key] = found = make() if found is None else found
    if len(memory) > _REMEMBERED:
        del memory[next(iter(memory))]
    return found


def _clipped(note: str) -> str:
    """At most as many bytes as an Event may have, and no half character."""
    return note.encode()[:_NOTE_BYTES].decode(errors="ignore")
