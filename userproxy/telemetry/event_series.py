"""Series of Kubernetes events: one event with its repeats, its name, and limits to how many are written. Pure.

The limits are client-go's (tools/record/events_cache.go): a series is over when it has been quiet for six minutes, and
what would be more than ten similar events within ten minutes is combined in one.
"""

import hashlib
from enum import Enum
from typing import Final

from msgspec import Struct

from userproxy.telemetry.timestamps import Timestamp, micro_time

_SERIES_ENDS_AFTER: Final = 360.0
_REFRESH_AFTER: Final = 1800.0
"""An API server drops an Event an hour after its last write."""

_MOST_SIMILAR: Final = 10
_SIMILAR_WITHIN: Final = 600.0
_COMBINED: Final = "(combined from similar events): "

# What the API server's validation allows.
_NOTE_BYTES: Final = 1024
_NAME_CHARACTERS: Final = 253


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
    PORTALS_CONTESTED = ("PortalsContested", "Warning", "WriteRules")
    CLIENT_ADDRESS_NOT_KEPT = ("ClientAddressNotKept", "Warning", "Connect")
    BALANCER_FAULTY = ("BalancerFaulty", "Warning", "Connect")
    ENDPOINT_EJECTED = ("EndpointEjected", "Warning", "Connect")
    DATA_PROCESS_ENDED = ("DataProcessEnded", "Warning", "Replace")
    NEED_PODS = ("NeedPods", "Normal", "Connect")
    """OpenShift's word for a Service without Pods that a client waits for."""
    BAD_ANNOTATION = ("BadAnnotation", "Warning", "ReadAnnotations")


class Regarding(Struct, frozen=True):
    """The object that an event is about. A Node's namespace is empty; so is a uid that is not known."""

    kind: str
    name: str
    namespace: str = ""
    uid: str = ""

    def reference(self) -> dict[str, str]:
        known = {"namespace": self.namespace, "name": self.name, "uid": self.uid}
        return {"apiVersion": "v1", "kind": self.kind, **{field: text for field, text in known.items() if text}}


class EventKey(Struct, frozen=True):
    """What makes two events the same one."""

    regarding: Regarding
    reason: Reason
    note: str
    shared: bool = False
    """Whether every node would report the same."""


class Series:
    """One event and its repeats."""

    def __init__(self, key: EventKey, now: Timestamp) -> None:
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

    def repeat(self, now: Timestamp) -> None:
        self.last = now
        self.count += 1

    def over(self, now: Timestamp) -> bool:
        """Whether a repeat begins a new series. Never for a shared event: its name is always the same."""
        return not self.key.shared and now.monotonic - self.last.monotonic >= _SERIES_ENDS_AFTER

    def due(self, now: Timestamp) -> bool:
        """Whether to write it now: n fast repeats make log2(n) requests, and a slow series is refreshed in time."""
        if self.key.reason is Reason.NEED_PODS:
            return True  # somebody waits for what it asks for, who tells often enough
        return self.count >= 2 * self.sent_count or now.monotonic - self.sent_at >= _REFRESH_AFTER

    def sent(self, count: int, now: Timestamp) -> None:
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
        """The part of the Event that changes with repeats."""
        if self.count == 1:
            return {}
        return {"series": {"count": self.count, "lastObservedTime": micro_time(self.last.wall_ns)}}


class Similar:
    """The notes of the last ten minutes, of events that differ in nothing else."""

    def __init__(self) -> None:
        self._notes: set[str] = set()
        self._combined = ""
        self._last = float("-inf")

    def combine(self, note: str, now: float) -> str:
        """The note to send instead of `note`: the same for all further events if there are too many."""
        if now - self._last > _SIMILAR_WITHIN:
            self._notes, self._combined = set(), ""
        self._last = now
        if len(self._notes) <= _MOST_SIMILAR:
            self._notes.add(note)
        if len(self._notes) <= _MOST_SIMILAR:
            return note
        self._combined = self._combined or clipped(_COMBINED + note)
        return self._combined


class TokenBucket:
    """A rate limit: a `burst` at once, and then one every `seconds`."""

    __slots__ = ("_burst", "_left", "_seconds", "_since")

    def __init__(self, burst: int, seconds: float) -> None:
        self._burst = burst
        self._seconds = seconds
        self._left = float(burst)
        self._since: float | None = None

    def take(self, now: float) -> bool:
        """Whether one may be done at `now`, in seconds of a monotonic clock. If so, it counts as done."""
        return self.wait(now) == 0

    def wait(self, now: float) -> float:
        """Seconds until one may be done; 0 means that it may be done now, and counts as done."""
        if self._since is not None:
            self._left = min(self._burst, self._left + (now - self._since) / self._seconds)
        self._since = now
        if self._left < 1:
            return (1 - self._left) * self._seconds
        self._left -= 1
        return 0


def clipped(note: str) -> str:
    """`note`, cut to the bytes that an Event may have, at the end of a character."""
    return note.encode()[:_NOTE_BYTES].decode(errors="ignore")


def _digest(key: EventKey) -> str:
    """Identifies a shared event among those about the same Service; all combined ones of a reason are one event."""
    note = _COMBINED if key.note.startswith(_COMBINED) else key.note
    about = key.regarding
    text = "\0".join((about.namespace, about.name, about.uid, key.reason.value[0], note))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
