"""What a real API server checks of an Event of events.k8s.io/v1 that is created or changed (pkg/apis/core/validation).

A client whose Event breaks a rule gets 422 and no Event, and may never notice: it is best effort.
"""

import re
from collections.abc import Iterator
from typing import Any

from tests.lab.apiserver.status import invalid

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"([a-z0-9.-]+/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_MOST_BYTES = {"reportingInstance": 128, "action": 128, "reason": 128, "note": 1024}
_NEEDED = ("reportingController", "reportingInstance", "action", "reason", "eventTime")
_DEPRECATED = ("deprecatedFirstTimestamp", "deprecatedLastTimestamp", "deprecatedCount", "deprecatedSource")
_FIXED = (
    *("regarding", "reason", "note", "type", "eventTime", "action", "related", "reportingController"),
    *("reportingInstance", *_DEPRECATED),
)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def check_new_event(event: dict[str, Any]) -> None:
    """Raises ApiError 422 with every field that is wrong."""
    _raise(event, [*_always(event), *_of_new(event), *_of_series(event)])


def check_changed_event(event: dict[str, Any], old: dict[str, Any]) -> None:
    """Raises ApiError 422 with every field that is wrong, or that may not change."""
    fixed = [(field, "field is immutable") for field in _FIXED if event.get(field) != old.get(field)]
    series = [] if event.get("series") == old.get("series") else [*_of_series(event)]
    _raise(event, [*_always(event), *fixed, *series])


def _raise(event: dict[str, Any], complaints: list[tuple[str, str]]) -> None:
    if complaints:
        raise invalid("Event", event["metadata"]["name"], complaints)


def _always(event: dict[str, Any]) -> Iterator[tuple[str, str]]:
    namespace = (event.get("regarding") or {}).get("namespace", "")
    if not namespace and event["metadata"]["namespace"] not in ("default", "kube-system"):
        yield "involvedObject.namespace", "does not match event.namespace"
    for field in _NEEDED:
        if not event.get(field):
            yield field, "Required value"
    for field, most in _MOST_BYTES.items():
        if len((event.get(field) or "").encode()) > most:
            yield field, f"can have at most {most} characters"
    if not _QUALIFIED.fullmatch(event.get("reportingController") or "x"):
        yield "reportingController", "name part must consist of alphanumeric characters, '-', '_' or '.'"


def _of_new(event: dict[str, Any]) -> Iterator[tuple[str, str]]:
    name = event["metadata"]["name"]
    if len(name) > 253 or not _SUBDOMAIN.fullmatch(name):
        yield "metadata.name", "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters"
    if event.get("type") not in ("Normal", "Warning"):
        yield "type", f"has invalid value: {event.get('type')}"
    if not _TIME.fullmatch(event.get("eventTime") or ""):
        yield "eventTime", "it is no MicroTime"
    for field in _DEPRECATED:
        if event.get(field):
            yield field, "needs to be unset"


def _of_series(event: dict[str, Any]) -> Iterator[tuple[str, str]]:
    series = event.get("series")
    if series is None:
        return
    if series.get("count", 0) < 2:
        yield "series.count", "should be at least 2"
    if not series.get("lastObservedTime"):
        yield "series.lastObservedTime", "Required value"
