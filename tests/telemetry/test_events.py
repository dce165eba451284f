"""What is written to the API server, how often, and what happens when it does not answer."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest

from tests.telemetry.moments import Clock
from tests.telemetry.waiting import eventually
from userproxy.errors import UserproxyError
from userproxy.model import ServiceName
from userproxy.telemetry.events import Reason, Recorder, RetryPolicy

WEB = ServiceName("shop", "web")


class Api:
    """An API server's Events: what was written, and one failure for each entry of `failures` before that."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.writes: list[str] = []
        self.failures: list[int | None] = []
        self.refuse: int | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def post(self, path: str, body: bytes) -> int:
        event = json.loads(body)
        return await self._write("POST", f"{path}/{event['metadata']['name']}", event)

    async def patch(self, path: str, body: bytes) -> int:
        if path not in self.events:
            self.writes.append("PATCH 404")
            return 404
        return await self._write("PATCH", path, {**self.events[path], **json.loads(body)})

    async def _write(self, verb: str, path: str, event: dict[str, Any]) -> int:
        await self.gate.wait()
        status = self.failures.pop(0) if self.failures else self.refuse or 201
        self.writes.append(f"{verb} {status}")
        if status is None:
            raise UserproxyError("the API server does not answer")
        if status < 300:
            self.events[path] = event
        return status

    @property
    def only(self) -> dict[str, Any]:
        (event,) = self.events.values()
        return event


class Bench:
    def __init__(self) -> None:
        self.api = Api()
        self.clock = Clock()
        policy = RetryPolicy(tries=12, apart=0.001)
        self.recorder = Recorder(self.api, "worker-1", "Worker-1.example", self.clock, Random(1), policy)

    def conflict(self, note: str = "port 80 is taken") -> None:
        self.recorder.about_service(WEB, Reason.PORT_CONFLICT, note)

    async def written(self, *writes: str) -> None:
        await eventually(lambda: len(self.api.writes) >= len(writes))
        assert self.api.writes == list(writes)


@asynccontextmanager
async def running() -> AsyncIterator[Bench]:
    bench = Bench()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(bench.recorder.run(), name="events")
        yield bench
        task.cancel()


async def test_starting_is_about_the_node_in_default() -> None:
    async with running() as bench:
        bench.recorder.about_node(Reason.STARTING)
        await bench.written("POST 201")
        ((path, event),) = bench.api.events.items()
        name = f"worker-1.{bench.clock().wall_ns:x}"
        assert path == f"/apis/events.k8s.io/v1/namespaces/default/events/{name}"
        assert event == {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": "default"},
            "eventTime": "2026-01-02T03:04:00.000000Z",
            "reportingController": "kube-proxy",
            "reportingInstance": "kube-proxy-Worker-1.example",
            "action": "StartKubeProxy",
            "reason": "Starting",
            "regarding": {"apiVersion": "v1", "kind": "Node", "name": "worker-1"},
            "note": "",
            "type": "Normal",
        }


async def test_a_conflict_is_about_the_service_in_its_namespace() -> None:
    async with running() as bench:
        bench.conflict()
        await bench.written("POST 201")
        event = bench.api.only
        assert event["metadata"]["namespace"] == "shop"
        assert event["regarding"] == {"apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "web"}
        assert (event["reason"], event["type"], event["note"]) == ("PortConflict", "Warning", "port 80 is taken")


async def test_a_health_check_that_failed_is_kube_proxys_event() -> None:
    async with running() as bench:
        bench.recorder.about_service(WEB, Reason.HEALTH_CHECK_FAILED, "node worker-1: taken")
        await bench.written("POST 201")
        event = bench.api.only
        assert (event["reason"], event["type"]) == ("FailedToStartServiceHealthcheck", "Warning")
        assert event["action"] == "Listen"


async def test_a_repeat_becomes_a_series_and_a_storm_costs_its_logarithm() -> None:
    async with running() as bench:
        bench.conflict()
        await bench.written("POST 201")
        for number in range(2, 17):
            bench.clock.seconds = number
            before = len(bench.api.writes)
            bench.conflict()
            if number in {2, 4, 8, 16}:
                await eventually(lambda before=before: len(bench.api.writes) > before)  # type: ignore[misc]
            for _ in range(20):
                await asyncio.sleep(0)  # the recorder has its turns, and uses none
        await bench.written("POST 201", *["PATCH 201"] * 4)
        assert bench.api.only["series"] == {"count": 16, "lastObservedTime": "2026-01-02T03:04:16.000000Z"}


async def test_repeats_while_one_is_on_its_way_are_counted() -> None:
    async with running() as bench:
        bench.api.gate.clear()
        bench.conflict()
        await asyncio.sleep(0)
        for _ in range(4):
            bench.conflict()
        bench.api.gate.set()
        await eventually(lambda: bool(bench.api.events) and bench.api.only.get("series", {}).get("count") == 5)
        assert bench.api.writes[0] == "POST 201"
        assert len(bench.api.writes) <= 2


async def test_a_slow_series_is_refreshed_before_the_api_forgets_it() -> None:
    async with running() as bench:
        for writes in (1, 2, 2, 3, 3, 3, 3, 4):
            bench.conflict()
            await eventually(lambda writes=writes: len(bench.api.writes) == writes)  # type: ignore[misc]
        for step in range(1, 7):
            assert bench.api.writes == ["POST 201", *["PATCH 201"] * 3]
            bench.clock.seconds = 350 * step
            bench.conflict()
        await bench.written("POST 201", *["PATCH 201"] * 4)
        assert bench.api.only["series"]["count"] == 14


@pytest.mark.parametrize(
    ("change", "events"),
    [
        (lambda bench: setattr(bench.clock, "seconds", 359), 1),
        (lambda bench: setattr(bench.clock, "seconds", 360), 2),
    ],
    ids=["within six minutes", "after six minutes"],
)
async def test_a_quiet_series_is_over(change: Callable[[Bench], None], events: int) -> None:
    async with running() as bench:
        bench.conflict()
        await bench.written("POST 201")
        change(bench)
        bench.conflict()
        await eventually(lambda: len(bench.api.writes) == 2)
        assert len(bench.api.events) == events


async def test_another_note_or_service_is_another_event() -> None:
    async with running() as bench:
        bench.conflict("port 80 is taken")
        bench.conflict("port 81 is taken")
        bench.recorder.about_service(ServiceName("shop", "api"), Reason.PORT_CONFLICT, "port 80 is taken")
        bench.recorder.about_service(WEB, Reason.BAD_ANNOTATION, "port 80 is taken")
        await bench.written(*["POST 201"] * 4)


@pytest.mark.parametrize("failure", [None, 429, 500, 503])
async def test_no_answer_and_an_overloaded_server_are_tried_again(failure: int | None) -> None:
    async with running() as bench:
        bench.api.failures = [failure] * 11
        bench.conflict()
        await bench.written(*[f"POST {failure}"] * 11, "POST 201")


async def test_twelve_tries_and_then_the_next_event() -> None:
    async with running() as bench:
        bench.api.failures = [None] * 12
        bench.conflict()
        bench.recorder.about_node(Reason.STARTING)
        await bench.written(*["POST None"] * 12, "POST 201")
        assert bench.api.only["reason"] == "Starting"


async def test_a_refused_event_is_not_tried_again() -> None:
    async with running() as bench:
        bench.api.failures = [403]
        bench.conflict()
        bench.recorder.about_node(Reason.STARTING)
        await bench.written("POST 403", "POST 201")


async def test_an_event_that_expired_is_created_anew_with_its_series() -> None:
    async with running() as bench:
        bench.conflict()
        await bench.written("POST 201")
        bench.api.events.clear()
        bench.conflict()
        await bench.written("POST 201", "PATCH 404", "POST 201")
        assert bench.api.only["series"]["count"] == 2


async def test_at_most_a_thousand_wait() -> None:
    bench = Bench()
    for number in range(1500):
        bench.conflict(f"port {number} is taken")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(bench.recorder.run(), name="events")
        await eventually(lambda: len(bench.api.writes) == 1000)
        bench.conflict("one more")
        await eventually(lambda: len(bench.api.writes) == 1001)
        task.cancel()


async def test_names_and_notes_fit_what_the_api_allows() -> None:
    bench = Bench()
    recorder = Recorder(bench.api, "n" * 230 + "." + "o" * 20, "h" * 250, bench.clock, Random(1))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(recorder.run(), name="events")
        recorder.about_node(Reason.STARTING, "é" * 1000)
        await eventually(lambda: bool(bench.api.events))
        task.cancel()
    event = bench.api.only
    assert len(event["metadata"]["name"]) <= 253
    assert len(event["reportingInstance"]) == 128
    assert event["note"] == "é" * 512
