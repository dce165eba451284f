"""Which Events the fake API server refuses: the same ones as a real one."""

import time
from typing import Any

import pytest

from tests.lab.apiserver.event_rules import check_changed_event, check_new_event
from tests.lab.apiserver.status import ApiError
from userproxy.telemetry.timestamps import micro_time

EVENT: dict[str, Any] = {
    "kind": "Event",
    "metadata": {"name": "web.17f0a", "namespace": "shop"},
    "eventTime": micro_time(time.time_ns()),
    "reportingController": "kube-proxy",
    "reportingInstance": "kube-proxy-node-1",
    "action": "Listen",
    "reason": "PortConflict",
    "regarding": {"apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "web"},
    "note": "é" * 512,
    "type": "Warning",
    "series": {"count": 2, "lastObservedTime": micro_time(time.time_ns())},
}

BAD: list[tuple[dict[str, Any], str]] = [
    ({"metadata": {"name": "Web.17f0a", "namespace": "shop"}}, "metadata.name"),
    ({"metadata": {"name": "web-.17f0a", "namespace": "shop"}}, "metadata.name"),
    ({"metadata": {"name": "w" * 254, "namespace": "shop"}}, "metadata.name"),
    ({"regarding": {"kind": "Node", "name": "node-1"}}, "involvedObject.namespace"),
    ({"reportingController": ""}, "reportingController"),
    ({"reportingController": "kube proxy"}, "reportingController"),
    ({"reportingInstance": "k" * 129}, "reportingInstance"),
    ({"action": ""}, "action"),
    ({"reason": None}, "reason"),
    ({"note": "é" * 513}, "note"),
    ({"type": "Error"}, "type"),
    ({"eventTime": None}, "eventTime"),
    ({"eventTime": "2026-01-31T12:00:00Z"}, "eventTime"),
    ({"deprecatedCount": 1}, "deprecatedCount"),
    ({"series": {"count": 1, "lastObservedTime": "2026-01-31T12:00:00.000000Z"}}, "series.count"),
    ({"series": {"count": 2}}, "series.lastObservedTime"),
]


def complaints(error: pytest.ExceptionInfo[ApiError]) -> set[str]:
    status = error.value.status()
    assert (status["code"], status["reason"]) == (422, "Invalid")
    return {cause["field"] for cause in status["details"]["causes"]}


def test_a_good_event() -> None:
    check_new_event(EVENT)
    check_changed_event({**EVENT, "series": {**EVENT["series"], "count": 9}}, EVENT)


@pytest.mark.parametrize(("change", "field"), BAD)
def test_a_bad_event_is_refused_with_its_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ApiError) as caught:
        check_new_event(EVENT | change)
    assert complaints(caught) == {field}


@pytest.mark.parametrize("field", ["note", "reason", "type", "regarding", "reportingInstance", "eventTime"])
def test_what_may_not_change(field: str) -> None:
    other = {"kind": "Service", "namespace": "shop", "name": "api"} if field == "regarding" else "Normal"
    with pytest.raises(ApiError) as caught:
        check_changed_event(EVENT | {field: other}, EVENT)
    assert complaints(caught) == {field}
