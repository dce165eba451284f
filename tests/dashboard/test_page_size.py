"""The page with 1,000 Services and 5,000 connections, in a real browser."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import msgspec
import pytest

from tests.admin.planes import ONE, Served, connection
from tests.cli.served import Running, running
from tests.lab.browser import Watched, chromium, opened
from userproxy.model import Endpoint, ListenerName, Protocol, ServicePortName
from userproxy.model.reports import EndpointFigures, ListenerFigures, SocketAddress
from userproxy.model.snapshots import Verdict

SERVICES, CONNECTIONS = 1000, 5000
MOST_MILLISECONDS = 50
"""What browsers call a long task takes longer."""
MOST_ROWS = 100
"""Rows of a list that may be elements: those in sight, and a few."""

NAMES = [
    ServicePortName(f"team-{number % 20}", f"service-{number}", "http", Protocol.TCP) for number in range(SERVICES)
]


def fill(api: Served) -> None:
    for number, name in enumerate(NAMES):
        api.control.add(name, ONE, Endpoint("10.1.0.2", 8080), ip=f"10.96.{number // 250}.{number % 250 + 1}")
    progress(api, 0)


def progress(api: Served, looks: int) -> None:
    """All figures after so many looks: every Service and every connection has had traffic since the one before."""
    moved = looks * 1500
    api.data.figures = tuple(
        ListenerFigures(
            ListenerName(name),
            Verdict.SERVE,
            active=5,
            total=looks * (number % 7),
            bytes_up=moved,
            bytes_down=moved,
            endpoints=(EndpointFigures(ONE, active=5, total=looks, bytes_up=moved, bytes_down=moved),),
        )
        for number, name in enumerate(NAMES)
    )
    api.data.open = [
        connection(
            number,
            NAMES[number % SERVICES],
            client=SocketAddress(f"10.2.{number % 200}.9", 1024 + number),
            bytes_up=moved + number,
            bytes_down=moved,
        )
        for number in range(1, CONNECTIONS + 1)
    ]


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Watched]]:
    with ExitStack() as stack:
        server = stack.enter_context(running(tmp_path_factory.mktemp("crowd")))
        server.tell(fill)
        argv = [sys.executable, "-m", "userproxy", "dashboard", "--no-open", "--admin-socket", server.path]
        dashboard = stack.enter_context(
            subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        )
        stack.callback(dashboard.terminate)
        assert dashboard.stdout is not None
        browser = stack.enter_context(chromium(tmp_path_factory.mktemp("browser")))
        watched = stack.enter_context(opened(browser, dashboard.stdout.readline().strip()))
        watched.wait(
            "([services, connections]) => document.querySelector('#services-count').textContent === services"
            " && document.querySelector('#connections-count').textContent === connections",
            [f"{SERVICES:,}", f"{CONNECTIONS:,}"],
        )
        yield server, watched


def rows(watched: Watched, grid: str) -> int:
    return int(watched.page.locator(f"#{grid} .space > .row").count())


def test_only_rows_in_sight_are_elements_wherever_one_looks(crowded: tuple[Running, Watched]) -> None:
    _, watched = crowded
    for grid, count in (("services-grid", SERVICES), ("connections-grid", CONNECTIONS)):
        assert watched.page.locator(f"#{grid} .grid").get_attribute("aria-rowcount") == str(count + 1)
        assert 0 < rows(watched, grid) <= MOST_ROWS
        body = watched.page.locator(f"#{grid} .body")
        for part in (0.25, 0.5, 1):
            body.evaluate("(body, part) => { body.scrollTop = part * (body.scrollHeight - body.clientHeight); }", part)
            watched.wait(
                "([grid, least]) => Math.max(...[...document.querySelectorAll(`#${grid} .space > .row`)]"
                ".map((row) => Number(row.ariaRowIndex))) > least",
                [grid, int(part * count * 0.95)],
            )
            assert rows(watched, grid) <= MOST_ROWS
    assert "team-9/" in watched.page.locator('#services-grid [aria-rowindex="1001"]').inner_text()


def test_one_stream_tells_of_everything(crowded: tuple[Running, Watched]) -> None:
    server, watched = crowded
    asked: list[str] = []
    watched.page.on("request", lambda request: asked.append(request.url))
    watched.page.locator("#services-grid .body").evaluate("(body) => { body.scrollTop = 0; }")
    total = "document.querySelector('[data-total=up_rate]').textContent"
    for looks in range(1, 4):
        watched.wait(f"() => {total} === '0 B'")
        server.tell(partial(progress, looks=looks))
        watched.wait(f"() => {total} !== '0 B'")
    assert asked == []
    assert watched.complaints == []


def test_no_task_of_the_page_keeps_it_from_answering(
    crowded: tuple[Running, Watched], record_property: Callable[[str, object], None]
) -> None:
    """By processor time: how long a task takes on a machine that has much else to do is the machine's affair."""
    server, watched = crowded
    browser = watched.page.context.browser
    assert browser is not None
    page = watched.page.context.new_page()
    try:
        browser.start_tracing(page=page, categories=["toplevel", "disabled-by-default-devtools.timeline"])
        page.goto(watched.page.url)
        page.wait_for_function(_ALL_CONNECTIONS)
        filtered = page.locator("#connections-filter")
        filtered.press_sequentially("10.2.77.9")
        page.wait_for_function("() => document.querySelector('#connections-count').textContent === '25 of 5,000'")
        filtered.fill("")
        for column in ("client", "endpoint", "rate"):
            page.locator(f"#connections-grid .head .{column} button").click()
        page.locator("#services-grid .head .opened button").click()
        server.tell(lambda api: progress(api, 9))
        for _ in range(30):
            page.mouse.move(200, 500)
            page.mouse.wheel(0, 700)
        page.wait_for_function("() => document.querySelector('[data-total=up_rate]').textContent !== '0 B'")
        page.wait_for_function(_ALL_CONNECTIONS)
        tasks = task_milliseconds(browser.stop_tracing())
    finally:
        page.close()
    record_property("longest_tasks_milliseconds", tasks[:5])
    assert len(tasks) > 100, "the trace is of the page"
    assert tasks[0] < MOST_MILLISECONDS, tasks[:5]
    assert watched.complaints == []


_ALL_CONNECTIONS = "() => document.querySelector('#connections-count').textContent === '5,000'"


def task_milliseconds(trace: bytes) -> list[float]:
    """The processor time of each task of the pages' threads in a trace of Chromium, the longest first."""
    events = msgspec.json.decode(trace)["traceEvents"]
    threads = {
        (each["pid"], each["tid"])
        for each in events
        if each["name"] == "thread_name" and each["args"]["name"] == "CrRendererMain"
    }
    return sorted(
        (
            each["tdur"] / 1000
            for each in events
            if each["name"] == "RunTask" and "tdur" in each and (each["pid"], each["tid"]) in threads
        ),
        reverse=True,
    )
