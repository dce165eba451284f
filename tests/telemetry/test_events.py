"""What is written to the API server, how often, and what happens when it does not answer."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import msgspec
import pytest

from tests.telemetry.timestamps import Clock
from tests.telemetry.waiting import eventually
from userproxy.errors import UserproxyError
from userproxy.model import ServiceName
from userproxy.telemetry.event_series import Reason
from userproxy.telemetry.events import Recorder, RecorderLimits

WEB = ServiceName("shop", "web")


class Api:
    """An API server's Events: what was written, and one failure for each entry of `failures` before that."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.writes: list[str] = []
        self.failures: list[int | None] = []
        self.refuse: int | None = None
        self.at_once = 0
        self.most_at_once = 0
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
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        await self.gate.wait()
        self.at_once -= 1
        if verb == "POST" and path in self.events:
            self.writes.append("POST 409")
            return 409
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


UNLIMITED = RecorderLimits(tries=12, apart=0.001, burst=1_000_000, spread=0)


class Bench:
    def __init__(
        self, api: Api | None = None, number: int = 1, limits: RecorderLimits = UNLIMITED, generation: str = ""
    ) -> None:
        self.api = Api() if api is None else api
        self.clock = Clock()
        host = f"Worker-{number}.example"
        node, random = f"worker-{number}", Random(number)
        self.recorder = Recorder(
            self.api, node, host, self.clock, random, limits, lambda name: f"uid of {name.name}{generation}"
        )

    def bad_annotation(self, note: str = "bad", service: ServiceName = WEB) -> None:
        self.recorder.about_service(service, Reason.BAD_ANNOTATION, note, here=False)

    def conflict(self, note: str = "port 80 is taken") -> None:
        self.recorder.about_service(WEB, Reason.PORT_CONFLICT, note, here=True)

    async def written(self, *writes: str) -> None:
        await eventually(lambda: len(self.api.writes) >= len(writes))
        assert self.api.writes == list(writes)


@asynccontextmanager
async def running(*benches: Bench) -> AsyncIterator[Bench]:
    benches = benches or (Bench(),)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(bench.recorder.run(), name="events") for bench in benches]
        yield benches[0]
        for task in tasks:
            task.cancel()


async def a_moment() -> None:
    """Let recorders have their turns, of which they make no use."""
    for _ in range(50):
        await asyncio.sleep(0)


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
            "regarding": {"apiVersion": "v1", "kind": "Node", "name": "worker-1", "uid": "worker-1"},
            "note": "",
            "type": "Normal",
        }


async def test_a_conflict_is_about_the_service_in_its_namespace() -> None:
    async with running() as bench:
        bench.conflict()
        await bench.written("POST 201")
        event = bench.api.only
        assert event["metadata"]["namespace"] == "shop"
        about = {"apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "web", "uid": "uid of web"}
        assert event["regarding"] == about
        assert (event["reason"], event["type"], event["note"]) == (
            "PortConflict",
            "Warning",
            "Node worker-1: port 80 is taken",
        )


async def test_a_health_check_that_failed_is_kube_proxys_event() -> None:
    async with running() as bench:
        bench.recorder.about_service(WEB, Reason.HEALTH_CHECK_FAILED, "taken", here=True)
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
        bench.clock.seconds = 1
        bench.conflict("port 81 is taken")
        bench.clock.seconds = 2
        bench.recorder.about_service(ServiceName("shop", "api"), Reason.PORT_CONFLICT, "port 80 is taken", here=True)
        bench.recorder.about_service(WEB, Reason.BAD_ANNOTATION, "port 80 is taken", here=True)
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
        service = ServiceName("shop", f"web-{number}")
        bench.recorder.about_service(service, Reason.PORT_CONFLICT, "port 80 is taken", here=True)
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


async def test_what_is_so_on_every_node_is_told_by_one() -> None:
    api = Api()
    nodes = [Bench(api, number) for number in range(20)]
    async with running(*nodes):
        for node in nodes:
            node.bad_annotation()
        await eventually(lambda: len(api.writes) == 20)
        await a_moment()
    assert api.only["regarding"]["name"] == "web"
    assert sorted(api.writes) == ["POST 201", *["POST 409"] * 19]
    assert api.only["note"] == "bad"


async def test_a_service_that_was_made_anew_has_events_of_its_own() -> None:
    """Those of its predecessor stay for an hour, and are not shown with it."""
    api = Api()
    async with running(Bench(api)) as bench:
        bench.bad_annotation()
        await bench.written("POST 201")
    async with running(Bench(api, generation=" anew")) as bench:
        bench.bad_annotation()
        await bench.written("POST 201", "POST 201")
    assert {event["regarding"]["uid"] for event in api.events.values()} == {"uid of web", "uid of web anew"}


async def test_what_is_so_on_one_node_is_told_with_its_name() -> None:
    api = Api()
    nodes = [Bench(api, number) for number in range(3)]
    async with running(*nodes):
        for number, node in enumerate(nodes):
            node.clock.seconds = number
            node.conflict()
        await eventually(lambda: len(api.writes) == 3)
    assert {event["note"] for event in api.events.values()} == {
        f"Node worker-{number}: port 80 is taken" for number in range(3)
    }


async def test_many_problems_on_many_nodes_cost_few_requests_and_all_are_told() -> None:
    api = Api()
    nodes = [Bench(api, number) for number in range(20)]
    async with running(*nodes):
        for node in nodes:
            for number in range(100):
                node.bad_annotation(service=ServiceName("shop", f"web-{number:03}"))
        await eventually(lambda: len(api.events) == 100)
        await a_moment()
    assert len(api.writes) <= 100 + 20 * 6


async def test_a_shared_event_begins_at_a_random_time_on_each_node() -> None:
    api, limits = Api(), msgspec.structs.replace(UNLIMITED, spread=0.5)
    nodes = [Bench(api, number, limits) for number in range(10)]
    async with running(*nodes):
        began = time.monotonic()
        for node in nodes:
            node.bad_annotation()
        await eventually(lambda: bool(api.writes))
        first = time.monotonic() - began
        await eventually(lambda: len(api.writes) == 10)
        assert time.monotonic() - began - first > 0.1


async def test_the_node_that_told_it_counts_its_repeats_and_others_do_not() -> None:
    api = Api()
    first, second = nodes = [Bench(api, number) for number in range(2)]
    async with running(*nodes):
        for _ in range(2):
            first.bad_annotation()
            await a_moment()
        second.bad_annotation()
        await eventually(lambda: len(api.writes) == 3)
        first.clock.seconds = second.clock.seconds = 400
        second.bad_annotation()
        first.bad_annotation()
        first.bad_annotation()
        await eventually(lambda: len(api.writes) == 5)
    assert sorted(api.writes) == ["PATCH 201", "PATCH 201", "POST 201", "POST 409", "POST 409"]
    assert api.only["series"]["count"] == 4
    assert api.only["reportingInstance"] == "kube-proxy-Worker-0.example"


async def test_another_problem_of_the_same_service_is_another_shared_event() -> None:
    async with running() as bench:
        bench.bad_annotation("bad")
        bench.bad_annotation("worse")
        bench.bad_annotation("bad", ServiceName("shop", "api"))
        bench.bad_annotation("bad", ServiceName("office", "web"))
        bench.recorder.about_service(WEB, Reason.UNSUPPORTED_PROTOCOL, "bad", here=False)
        await bench.written(*["POST 201"] * 5)


async def test_an_api_that_is_away_is_not_another_node() -> None:
    async with running() as bench:
        bench.api.failures += [None] * 12 * 6
        for number in range(8):
            bench.bad_annotation(service=ServiceName("shop", f"web-{number}"))
        await eventually(lambda: len(bench.api.events) == 2)


async def test_more_than_ten_similar_events_become_one() -> None:
    async with running() as bench:
        for number in range(30):
            bench.clock.seconds = number
            bench.conflict(f"port {number} is taken")
        await eventually(lambda: len(bench.api.events) == 11)
        await a_moment()
        *_, combined = sorted(bench.api.events.values(), key=lambda event: event["eventTime"])
        assert combined["note"] == "(combined from similar events): Node worker-1: port 10 is taken"
        assert combined["series"]["count"] >= 16
        assert len(bench.api.events) == 11
        bench.clock.seconds = 700
        bench.conflict("port 31 is taken")
        await eventually(lambda: len(bench.api.events) == 12)


async def test_combined_shared_events_are_one_on_all_nodes() -> None:
    api = Api()
    first, second = nodes = [Bench(api, number) for number in range(2)]
    async with running(*nodes):
        for number in range(12):
            first.bad_annotation(f"bad {number}")
        await eventually(lambda: len(api.events) == 11)
        for number in reversed(range(12)):
            second.bad_annotation(f"bad {number}")
        await eventually(lambda: len(api.writes) >= 16)
        await a_moment()
    assert len([each for each in api.events.values() if each["note"].startswith("(combined")]) == 1


async def test_an_object_has_25_writes_and_one_more_every_five_minutes() -> None:
    async with running() as bench:
        for second in range(40):
            for reason in (each for each in Reason if each is not Reason.NEED_PODS):
                bench.clock.seconds = second * 400 / 1000
                bench.recorder.about_service(WEB, reason, f"note {second}", here=True)
                await a_moment()
        assert len(bench.api.writes) == 25
        bench.recorder.about_service(ServiceName("shop", "api"), Reason.BAD_ANNOTATION, "another", here=True)
        await eventually(lambda: len(bench.api.writes) == 26)
        bench.clock.seconds = 320
        bench.recorder.about_service(WEB, Reason.BAD_ANNOTATION, "one more", here=True)
        await eventually(lambda: len(bench.api.writes) == 27)


async def test_that_pods_are_needed_is_written_each_time_it_is_told() -> None:
    async with running() as bench:
        for number in range(40):
            bench.clock.seconds = number * 5.0
            bench.recorder.about_service(WEB, Reason.NEED_PODS, "The service-port web: needs pods.", here=True)
            await eventually(lambda number=number: len(bench.api.writes) == number + 1)  # type: ignore[misc]


async def test_requests_come_one_by_one_and_at_a_pace() -> None:
    bench = Bench(limits=msgspec.structs.replace(UNLIMITED, burst=5, per_second=50.0))
    began = time.monotonic()
    async with running(bench):
        for number in range(20):
            service = ServiceName("shop", f"web-{number}")
            bench.recorder.about_service(service, Reason.PORT_CONFLICT, "taken", here=bool(number % 2))
        await eventually(lambda: len(bench.api.writes) == 20)
    assert time.monotonic() - began > 15 / 50 * 0.9
    assert bench.api.most_at_once == 1


async def test_five_hundred_bad_services_are_told_slowly() -> None:
    """522 Events went out in 3.3 s once."""
    bench = Bench(limits=msgspec.structs.replace(RecorderLimits(), spread=0))
    async with running(bench):
        for number in range(500):
            bench.bad_annotation(service=ServiceName("shop", f"web-{number}"))
        await asyncio.sleep(1.0)
        assert 10 <= len(bench.api.writes) <= 10 + 5 * 2
