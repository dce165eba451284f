"""Kubernetes events (events.k8s.io/v1) about what an operator must act on. Best effort: traffic never waits for one.

kube-proxy's figures: a queue of 1,000, 12 tries about 10 s apart. A repeat is not a new Event but raises the
count of its series; a series is over when it has been quiet for six minutes, as client-go has it.
"""

import asyncio
import typing
from enum import Enum
from random import Random
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from userproxy.errors import UserproxyError
from userproxy.model import ServiceName
from userproxy.telemetry.moments import Clock, Moment, micro_time

log = structlog.get_logger()

_QUEUE: Final = 1000
_SERIES_ENDS_AFTER: Final = 360.0
_REFRESH_AFTER: Final = 1800.0
"""An API server drops an Event an hour after its last write."""

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
    BAD_ANNOTATION = ("BadAnnotation", "Warning", "ReadAnnotations")


class RetryPolicy(Struct, frozen=True):
    """How often one event is tried, and about how many seconds apart. The defaults are kube-proxy's."""

    tries: int = 12
    apart: float = 10.0


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


class _Series:
    """One event and its repeats."""

    def __init__(self, key: _Key, now: Moment) -> None:
        self.key = key
        self.first = now
        self.last = now
        self.count = 1
        self.sent_at = 0.0
        self.sent_count = 0
        self.queued = False

    def repeat(self, now: Moment) -> None:
        self.last = now
        self.count += 1

    def over(self, now: Moment) -> bool:
        return now.monotonic - self.last.monotonic >= _SERIES_ENDS_AFTER

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
        """Unique by its time, as client-go names events."""
        suffix = f".{self.first.wall_ns:x}"
        return self.key.regarding.name[: _NAME_CHARACTERS - len(suffix)].rstrip("-.") + suffix

    @property
    def path(self) -> str:
        return f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events"

    def tail(self) -> dict[str, object]:
        """The part that repeats change."""
        if self.count == 1:
            return {}
        return {"series": {"count": self.count, "lastObservedTime": micro_time(self.last.wall_ns)}}


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
        policy: RetryPolicy | None = None,
    ) -> None:
        self._transport = transport
        self._node = _Regarding("Node", node)
        self._instance = f"kube-proxy-{hostname}"[:_INSTANCE_CHARACTERS]
        self._clock = clock
        self._random = random
        self._policy = policy if policy is not None else RetryPolicy()
        self._series: dict[_Key, _Series] = {}
        self._queue: asyncio.Queue[_Series] = asyncio.Queue(_QUEUE)
        self._dropping = False

    def about_node(self, reason: Reason, note: str = "") -> None:
        """Record an event on our own Node."""
        self._record(_Key(self._node, reason, _clipped(note)))

    def about_service(self, service: ServiceName, reason: Reason, note: str) -> None:
        """Record an event on a Service; `note` is one sentence for whoever owns it."""
        regarding = _Regarding("Service", service.name, service.namespace)
        self._record(_Key(regarding, reason, _clipped(note)))

    def _record(self, key: _Key) -> None:
        now = self._clock()
        series = self._series.pop(key, None)
        if series is None or series.over(now):
            series = _Series(key, now)
        else:
            series.repeat(now)
        self._series[key] = series
        while len(self._series) > _QUEUE:
            del self._series[next(iter(self._series))]
        if not series.queued and series.due(now):
            self._enqueue(series)

    def _enqueue(self, series: _Series) -> None:
        try:
            self._queue.put_nowait(series)
        except asyncio.QueueFull:
            self._series.pop(series.key)
            if not self._dropping:
                log.warning("Events are dropped until the API server takes those that wait", waiting=_QUEUE)
            self._dropping = True
        else:
            series.queued = True

    async def run(self) -> None:
        """Send what is recorded, one event after the other, until cancelled."""
        while True:
            series = await self._queue.get()
            self._dropping = False
            await self._deliver(series)

    async def _deliver(self, series: _Series) -> None:
        for attempt in range(self._policy.tries):
            if attempt:
                await asyncio.sleep(self._policy.apart * self._random.uniform(0.8, 1.2))
            count = series.count
            if await self._send(series):
                series.sent(count, self._clock())
                break
        else:
            log.debug("Event given up", v=1, name=series.name, reason=series.key.reason.value[0])
        series.queued = False
        if 0 < series.sent_count < series.count and series.due(self._clock()):
            self._enqueue(series)

    async def _send(self, series: _Series) -> bool:
        """Whether the API server has decided; one that refuses an Event would refuse it again."""
        try:
            status = await self._write(series)
        except UserproxyError as error:
            log.debug("Event not sent yet", v=4, name=series.name, reason=str(error))
            return False
        if status == 429 or status >= 500:
            return False
        if status >= 400:
            log.debug("Event refused", v=1, name=series.name, reason=series.key.reason.value[0], status=status)
        return True

    async def _write(self, series: _Series) -> int:
        """Create the Event, or write its new count; an Event that has expired meanwhile is created anew."""
        if series.sent_count:
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


def _clipped(note: str) -> str:
    """At most as many bytes as an Event may have, and no half character."""
    return note.encode()[:_NOTE_BYTES].decode(errors="ignore")
