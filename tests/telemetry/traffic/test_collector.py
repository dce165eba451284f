"""The data plane's figures among the metrics."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace
from prometheus_client import Metric

from tests.telemetry.exposition import faults, parsed, samples, value
from tests.telemetry.traffic.figures import POD_2, StubDataPlane, as_data_plane, endpoint, figures
from userproxy.model import IPFamily, Protocol
from userproxy.model.reports import DatagramFigures, DialFailure, DialTimes, ProcessFigures, SourceFallback
from userproxy.telemetry.metrics import Metrics
from userproxy.telemetry.traffic.collector import DataPlaneCollector

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"
LATE = {
    "kubeproxy_sync_proxy_rules_iptables_total",
    "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
    "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
    "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
}
"""Those that are there once there has been a sync."""

BOUNDED = {"protocol", "direction", "reason", "state", "verdict", "series", "process", "le", "kind", "code"}
"""Labels that have a handful of values each."""

WEB = figures(
    total=10,
    active=2,
    failed=1,
    refused=3,
    retried=4,
    retries={DialFailure.REFUSED: 5},
    ended=4,
    duration_sum_seconds=2.5,
    bytes_up=1000,
    bytes_down=2000,
    dial=DialTimes((0.001,), (6, 1), 0.25),
    affinity_entries=8,
    endpoints=(endpoint(), endpoint(POD_2, passed_over_seconds=4.0)),
)
DNS = figures("dns", Protocol.UDP, total=7, active=7, datagrams=DatagramFigures(1, 2, 3, 4, 5, 6, 7))


def watched(stub: StubDataPlane, most: int = 100) -> Metrics:
    metrics = Metrics("0.1.0", tuple(IPFamily))
    metrics.watch(as_data_plane(stub), most)
    return metrics


def family_of(sample: str) -> str:
    return re.sub("_(total|bucket|count|sum)$", "", sample)


async def text_of(metrics: Metrics) -> str:
    return (await metrics.render()).decode()


async def test_every_figure_has_its_sample() -> None:
    text = await text_of(watched(StubDataPlane(WEB, DNS)))
    web = {"namespace": "shop", "service": "web", "port": "http", "protocol": "TCP"}
    dns = {**web, "service": "dns", "protocol": "UDP"}
    for name, labels, expected in (
        ("connections_opened_total", web, 10),
        ("connections_opened_total", dns, 7),
        ("connections_active", web, 2),
        ("connections_failed_total", web, 1),
        ("connections_refused_total", web, 3),
        ("connections_retried_total", web, 4),
        ("dial_failures_total", {**web, "reason": "refused"}, 5),
        ("dial_failures_total", {**web, "reason": "timed-out"}, 0),
        ("dial_seconds_bucket", {**web, "le": "0.001"}, 6),
        ("dial_seconds_count", web, 7),
        ("dial_seconds_sum", web, 0.25),
        ("connection_duration_seconds_count", web, 4),
        ("connection_duration_seconds_sum", web, 2.5),
        ("bytes_total", {**web, "direction": "up"}, 1000),
        ("bytes_total", {**web, "direction": "down"}, 2000),
        ("datagrams_total", {**dns, "direction": "up"}, 1),
        ("datagrams_total", {**dns, "direction": "down"}, 2),
        ("datagrams_dropped_total", {**dns, "reason": "buffer-full"}, 3),
        ("datagrams_dropped_total", {**dns, "reason": "not-sent"}, 4),
        ("datagrams_dropped_total", {**dns, "reason": "no-endpoint"}, 5),
        ("flows_evicted_total", dns, 6),
        ("flows_moved_total", dns, 7),
        ("affinity_entries", web, 8),
        ("endpoints", {**web, "state": "usable"}, 1),
        ("endpoints", {**web, "state": "passed-over"}, 1),
        ("endpoints", {**web, "state": "draining"}, 0),
        ("service_ports", {"series": "own"}, 2),
        ("listeners", {"verdict": "serve"}, 2),
        ("listeners", {"verdict": "drop"}, 0),
    ):
        assert value(text, f"userproxy_{name}", **labels) == expected, (name, labels)


async def test_what_a_protocol_does_not_have_does_not_show() -> None:
    text = await text_of(watched(StubDataPlane(WEB, DNS)))
    for name in ("userproxy_datagrams_total", "userproxy_flows_moved_total", "userproxy_dial_seconds_count"):
        protocols = {dict(labels)["protocol"] for each, labels in samples(text) if each == name}
        assert protocols == {"TCP" if "dial" in name else "UDP"}


async def test_figures_of_processes() -> None:
    stub = StubDataPlane()
    evicted = {Protocol.TCP: 3, Protocol.UDP: 4}
    failures = {Protocol.TCP: 0, Protocol.UDP: 5}
    fallbacks = {SourceFallback.NO_ANSWER: 1, SourceFallback.REMEMBERED: 6}
    first = ProcessFigures(4711, 20, 1024, 6, 0.125, 7, 8, evicted, failures, fallbacks, faults=2, faulted=3)
    stub.running = (first, replace(first, pid=4712, pipes=9, faulted=4))
    text = await text_of(watched(stub))
    for name, labels, expected in (
        ("descriptors", {"process": "0"}, 20),
        ("descriptors_limit", {"process": "1"}, 1024),
        ("pipes", {"process": "1"}, 9),
        ("loop_lag_seconds", {"process": "0"}, 0.125),
        ("process_connections", {"process": "0", "protocol": "TCP"}, 7),
        ("process_connections", {"process": "0", "protocol": "UDP"}, 8),
        ("evicted_total", {"protocol": "TCP"}, 6),
        ("evicted_total", {"protocol": "UDP"}, 8),
        ("client_address_fallbacks_total", {"reason": "no-answer"}, 2),
        ("client_address_fallbacks_total", {"reason": "remembered"}, 12),
        ("client_address_fallbacks_total", {"reason": "no-port"}, 0),
        ("faults", {}, 2),
        ("faulted_connections_total", {}, 7),
        ("handler_failures_total", {"protocol": "TCP"}, 0),
        ("handler_failures_total", {"protocol": "UDP"}, 10),
    ):
        assert value(text, f"userproxy_{name}", **labels) == expected, (name, labels)
    assert "4711" not in text


async def test_the_text_is_valid_whatever_there_is() -> None:
    stub = StubDataPlane()
    metrics = watched(stub)
    for given in ((), (WEB,), (WEB, DNS)):
        stub.given = given
        assert faults(await text_of(metrics)) == []


async def test_no_label_has_values_without_bound() -> None:
    many = [figures(f"web-{number:03}", total=number) for number in range(300)]
    text = await text_of(watched(StubDataPlane(*many), most=5))
    by_label: dict[str, set[str]] = {}
    for name, labels in samples(text):
        if name.startswith("userproxy_"):
            for label, its in labels:
                by_label.setdefault(label, set()).add(its)
    assert by_label.keys() <= BOUNDED | {"namespace", "service", "port"}
    assert len(by_label["service"]) == 6
    assert value(text, "userproxy_connections_opened_total") == sum(range(300))
    assert value(text, "userproxy_service_ports", series="rest") == 295


async def test_a_deleted_services_counters_do_not_go_back() -> None:
    stub = StubDataPlane(WEB, DNS)
    metrics = watched(stub)
    first = await text_of(metrics)
    stub.given = (DNS,)
    second = await text_of(metrics)
    counters = {family.name for family in parsed(first).values() if family.type != "gauge"}
    before, after = samples(first), samples(second)
    assert not [key for key, was in before.items() if family_of(key[0]) in counters and after[key] < was]
    assert value(second, "userproxy_connections_opened_total", service="web") == 10
    assert value(second, "userproxy_connections_active", service="web") == 0


async def test_the_data_plane_is_not_asked_all_the_time() -> None:
    times = iter([0.0, 10.0, 10.125, 10.125, 20.0, 30.0, 30.0])
    stub = StubDataPlane()
    collector = DataPlaneCollector(as_data_plane(stub), 1, lambda: next(times))
    await collector.ask()
    assert collector._not_before == 10.125 + 9 * 0.125
    collector._not_before = 0.0
    await collector.ask()
    assert collector._not_before == 32.0, "no more than two seconds"
    assert stub.asked == 2


async def test_the_page_on_metrics_has_all_of_them_and_no_other() -> None:
    text = await text_of(watched(StubDataPlane(WEB, DNS)))
    families = {f"{name}_total" if family.type == "counter" else name for name, family in parsed(text).items()}
    page = PAGE.read_text()
    named = set(re.findall(r"`((?:userproxy|kubeproxy|kubernetes)_\w+)`", page))
    assert named == {name for name in families | LATE if not name.startswith(("process_", "python_"))}
    for line in page.splitlines():
        row = re.match(r"\| `(userproxy_\w+)`.* \| (counter|gauge|histogram|summary) \|(.*?)\|", line)
        if row is not None:
            family = parsed(text)[row[1].removesuffix("_total")]
            common = {"namespace", "service", "port", "protocol"}
            labels = set().union(*(sample.labels for sample in family.samples))
            if "namespace" in labels:
                labels -= common
            assert (family.type, labels) == (row[2], set(re.findall(r"`(\w+)`", row[3]))), row[1]


async def test_how_many_samples_a_service_port_has() -> None:
    text = await text_of(watched(StubDataPlane(WEB, DNS)))
    for name, protocol in (("web", "TCP"), ("dns", "UDP")):
        count = sum(("service", name) in labels for _, labels in samples(text))
        assert f"{count} for {protocol}" in " ".join(PAGE.read_text().split())


async def test_text_is_made_in_another_thread_than_the_loops() -> None:
    metrics, threads = watched(StubDataPlane(WEB)), []
    collector = metrics._data_plane
    assert collector is not None
    collect = collector.collect

    def noting() -> Iterator[Metric]:
        threads.append(threading.get_ident())
        return collect()

    collector.collect = noting  # type: ignore[method-assign]
    await metrics.render()
    assert threads
    assert threading.get_ident() not in threads
