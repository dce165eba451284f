"""The dashboard in a real browser, about a real userproxy that has real traffic."""

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPException
from typing import Any

import pytest

from tests.lab.browser import Watched, chromium, opened
from tests.lab.cluster import QUICK, Lab
from tests.lab.manifests import Backend, Port
from tests.lab.proxy import RunningProxy, installed_command
from userproxy.cli.output.verdicts import complaints
from userproxy.demo.programs import Program
from userproxy.demo.traffic import ask, fetch

pytestmark = pytest.mark.e2e

WEB, API, DNS = "10.96.0.10", "10.96.0.11", "10.96.0.53"
BROKEN, ASLEEP, NARROW = "10.96.0.20", "10.96.0.21", "10.96.0.22"
WEB_ROW = '#services-grid [data-key="default/web/http/TCP"]'
DEAD, ABSENT = "10.244.1.4:8080", "10.244.9.9:8080"


class Shown:
    """A page about a node whose Service `web` has two Pods that serve, one that refuses and one that is not ready."""

    def __init__(self, lab: Lab, proxy: RunningProxy, browser: Any, dashboard: Program, watched: Watched) -> None:
        self.lab = lab
        self.proxy = proxy
        self.browser = browser
        self.dashboard = dashboard
        self.watched = watched
        self.page = watched.page

    def items(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        """What the admin API says, by a command."""
        found = self.lab.node.userproxy("get", kind, *arguments, "-o", "json")
        items: list[dict[str, Any]] = json.loads(found.stdout)["items"]
        return items

    def choose(self, row: str = WEB_ROW) -> None:
        self.page.locator(row).click()
        self.watched.wait("() => document.querySelectorAll('#endpoints-grid .space > .row').length > 0")

    def show_all(self) -> None:
        """As it is at first."""
        self.page.set_viewport_size({"width": 1600, "height": 950})
        self.page.emulate_media(color_scheme="light")
        for place in ("#services-filter", "#connections-filter"):
            self.page.locator(place).fill("")
        if self.page.locator("#subject-clear").is_visible():
            self.page.locator("#subject-clear").click()
        self.page.mouse.move(700, 5)
        self.page.evaluate("document.activeElement.blur()")

    def cells(self, grid: str, column: str) -> list[str]:
        """The texts of a column, in the order that is seen."""
        rows = f"#{grid} .space > .row"
        found: list[str] = self.page.evaluate(
            "([rows, column]) => [...document.querySelectorAll(rows)]"
            ".sort((one, other) => one.ariaRowIndex - other.ariaRowIndex)"
            ".map((row) => row.querySelector(`.${column}`).textContent)",
            [rows, column],
        )
        return found


@pytest.fixture(scope="module")
def shown(shared_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    lab = shared_lab
    lab.pods[0].serve_http()
    lab.pods[1].serve_http()
    lab.manifests.node(lab.node, zone="a")
    http = [Port(80, "http", target=8080)]
    lab.manifests.service("web", ports=[Port(80, "http", node_port=30080)], cluster_ip=WEB)
    lab.manifests.slice("web", [*lab.pods, Backend("10.244.9.9", ready=False)], ports=http)
    lab.manifests.service("api", ports=[Port(80, "http")], cluster_ip=API, namespace="shop")
    lab.manifests.slice("api", lab.pods[:1], ports=http, namespace="shop")
    lab.manifests.service("nobody", ports=[Port(80, "http")], cluster_ip="10.96.0.12", namespace="shop")
    lab.manifests.slice("nobody", [], ports=http, namespace="shop")
    lab.manifests.service("broken", ports=[Port(80, "http")], cluster_ip=BROKEN, namespace="payments")
    lab.manifests.slice("broken", lab.pods[2:], ports=http, namespace="payments")
    held = {"userproxy.io/hold": "120s"}
    lab.manifests.service("asleep", ports=[Port(80, "http")], cluster_ip=ASLEEP, namespace="night", annotations=held)
    lab.manifests.slice("asleep", [], ports=http, namespace="night")
    limited = {"userproxy.io/max-connections": "1"}
    lab.manifests.service("narrow", ports=[Port(80, "http")], cluster_ip=NARROW, namespace="night", annotations=limited)
    lab.manifests.slice("narrow", lab.pods[:1], ports=http, namespace="night")
    lab.manifests.service("dns", ports=[Port(53, "dns", "UDP")], cluster_ip=DNS, namespace="kube-system")
    dns = [Port(53, "dns", "UDP", target=8080)]
    lab.manifests.slice("dns", lab.pods[:1], ports=dns, namespace="kube-system")
    proxy = lab.node.start_userproxy(*QUICK, "--allow-faults")
    lab.settle()
    folder = tmp_path_factory.mktemp("browser")
    with ExitStack() as stack:
        dashboard = stack.enter_context(Program(lab.node, [installed_command(), "dashboard", "--no-open"]))
        browser = stack.enter_context(chromium(folder, lab.node))
        watched = stack.enter_context(opened(browser, dashboard.wait_line("http://")))
        watched.wait("() => document.querySelectorAll('#services-grid .space > .row').length >= 4")
        yield Shown(lab, proxy, browser, dashboard, watched)


@pytest.fixture
def page(shown: Shown) -> Iterator[Shown]:
    """The page as it is at first, which must have had nothing to complain of at the end of the test."""
    shown.show_all()
    yield shown
    assert shown.watched.complaints == []


def test_the_link_is_worth_one_browser_and_leaves_no_token_behind(page: Shown) -> None:
    link = page.dashboard.wait_line("http://")
    assert page.page.url == link.partition("#")[0]
    assert page.page.evaluate("document.cookie") == ""
    with opened(page.browser, link) as other:
        text = other.wait("() => document.querySelector('#trouble').textContent")
        assert "used already" in text
        assert other.page.locator("#services-grid .space > .row").count() == 0


def test_figures_are_those_of_the_api_and_change_with_traffic(page: Shown) -> None:
    page.choose()
    with ExitStack() as stack:
        kept = [stack.enter_context(page.lab.client.connect((WEB, 80))) for _ in range(3)]
        for each in kept:
            each.send(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
            assert each.recv(1000)
        page.watched.wait(
            "([row]) => document.querySelector(`${row} .active`).textContent === '3'"
            " && document.querySelectorAll('#connections-grid .space > .row').length === 3",
            [WEB_ROW],
        )
        found = {each["client"]: each for each in page.items("connections", "default/web")}
        assert sorted(page.cells("connections-grid", "client")) == sorted(found)
        assert set(page.cells("connections-grid", "endpoint")) == {each["endpoint"] for each in found.values()}
        page.watched.wait(
            "() => [...document.querySelectorAll('#endpoints-grid .space .active')]"
            ".reduce((all, cell) => all + Number(cell.textContent), 0) === 3",
        )
        clients = {_port(each) for each in kept}
        assert {int(client.rpartition(":")[2]) for client in found} == clients
    page.watched.wait("([row]) => document.querySelector(`${row} .active`).textContent === '0'", [WEB_ROW])
    page.watched.wait("() => document.querySelectorAll('#connections-grid .space > .row').length === 0")
    for _ in range(20):
        fetch(page.lab.client, (WEB, 80))
    page.watched.wait("() => document.querySelector('[data-total=opened_rate]').textContent !== '0'")
    failed = {each["endpoint"]: each["failed"] for each in page.items("endpoints", "default/web")}
    page.watched.wait(
        "(failed) => [...document.querySelectorAll('#endpoints-grid .space > .row')]"
        ".every((row) => row.querySelector('.failed').textContent === String(failed[row.dataset.key]))",
        failed,
    )


def _port(connected: socket.socket) -> int:
    return int(connected.getsockname()[1])


def test_the_picture_shows_where_traffic_goes_and_what_fails(page: Shown) -> None:
    page.choose()
    page.watched.wait("() => document.querySelectorAll('#picture .node.endpoint').length === 4")
    page.page.evaluate(
        "window.bursts = []; new MutationObserver((found) => found.forEach((each) => each.addedNodes.forEach("
        "(node) => window.bursts.push(node.textContent))))"
        ".observe(document.querySelector('#picture .bursts'), {childList: true})"
    )

    def asked() -> bool:
        for _ in range(6):
            fetch(page.lab.client, (WEB, 80))
        return bool(page.page.evaluate("window.bursts.length"))

    while not asked():
        pass
    assert page.page.evaluate("window.bursts[0]").startswith("✕")
    row = page.page.locator(f'#endpoints-grid [data-key="{DEAD}"] .condition')
    page.watched.wait(
        "(dead) => document.querySelector(`#endpoints-grid [data-key='${dead}'] .condition`)"
        ".textContent.includes('passed over')",
        DEAD,
    )
    assert row.get_attribute("data-state") == "bad"
    assert page.page.locator(f'#endpoints-grid [data-key="{ABSENT}"] .condition').inner_text() == "○not ready"
    lines = {
        line["key"]: line
        for line in page.page.evaluate(
            "[...document.querySelectorAll('#picture .flow')].map((line) =>"
            " ({key: line.dataset.line, rate: Number(line.dataset.rate), width: parseFloat(line.style.strokeWidth)}))"
        )
    }
    assert {"service > 10.244.1.2:8080", f"service > {DEAD}", f"{WEB}:80 > service"} <= lines.keys()
    assert all(line["width"] == 1.5 for line in lines.values() if not line["rate"])
    busy = [line for line in lines.values() if line["width"] > 1.5]
    scales = {round(line["width"] / line["rate"], 3) for line in busy}
    assert len(scales) <= 1, lines
    label = page.page.locator("#picture svg").get_attribute("aria-label")
    assert label is not None
    assert "to 4 endpoints" in label
    assert ABSENT in label
    assert "retried" in page.cells("decisions-grid", "verdict")[0]


def test_lists_are_filtered_and_sorted(page: Shown) -> None:
    filtered = page.page.locator("#services-filter")
    filtered.fill("shop")
    page.watched.wait("() => document.querySelectorAll('#services-grid .space > .row').length === 2")
    assert page.cells("services-grid", "service") == ["shop/nobody:http", "shop/api:http"], "the worst first"
    filtered.fill("SHOP endpoints no")
    page.watched.wait("() => document.querySelectorAll('#services-grid .space > .row').length === 1")
    filtered.fill("nothing is called so")
    page.watched.wait("() => document.querySelector('#services-grid .empty').textContent.includes('No Service')")
    filtered.press("Escape")
    page.watched.wait("() => document.querySelectorAll('#services-grid .space > .row').length > 3")
    heading = page.page.locator("#services-grid .head .service")
    for way in ("ascending", "descending"):
        heading.locator("button").click()
        assert heading.get_attribute("aria-sort") == way
        names = page.cells("services-grid", "service")
        assert names == sorted(names, reverse=way == "descending")
    page.page.locator("#services-grid .head .state button").click()
    assert page.page.locator("#services-grid .head .state").get_attribute("aria-sort") == "ascending"
    with page.lab.client.connect((WEB, 80)), page.lab.client.connect((API, 80)):
        page.watched.wait("() => document.querySelectorAll('#connections-grid .space > .row').length === 2")
        page.page.locator("#connections-filter").fill("shop/api")
        page.watched.wait("() => document.querySelectorAll('#connections-grid .space > .row').length === 1")
        assert page.cells("connections-grid", "owner") == ["shop/api:http"]


def attention(page: Shown, title: str) -> str:
    """What is said of something that needs attention, once it is."""
    said: str = page.watched.wait(
        "(title) => [...document.querySelectorAll('.attention li')]"
        ".find((line) => line.querySelector('.about').textContent === title)?.querySelector('.words').textContent",
        title,
    )
    return said


def unattended(page: Shown, title: str) -> None:
    """Wait until nothing is said of it any more."""
    page.watched.wait(
        "(title) => [...document.querySelectorAll('.attention .about')].every((each) => each.textContent !== title)",
        title,
    )


def test_what_is_wrong_is_at_the_top(page: Shown) -> None:
    for _ in range(3):
        with suppress(OSError, HTTPException):
            fetch(page.lab.client, (BROKEN, 80))
    assert "not served in a minute" in attention(page, "payments/broken:http")
    page.watched.wait("() => document.title.startsWith('✕ 1 · node-1')")
    page.watched.wait(
        "() => document.querySelector('#services-grid [aria-rowindex=\"2\"] .name')?.textContent === 'broken'"
    )
    first = page.page.locator(".attention li").first
    assert first.get_attribute("data-state") == "bad"
    first.locator("a").click()
    page.watched.wait("() => document.querySelector('#subject-title').textContent === 'payments/broken:http'")


def test_what_was_asked_for_is_seen_with_the_time_that_it_has_left(page: Shown) -> None:
    endpoint = "10.244.1.2:8080"
    page.lab.node.userproxy("drain", "shop/api", "--endpoint", endpoint, "--for", "90s", "--close-after", "60s")
    said = page.lab.node.userproxy(
        "fault", "set", "default/web", "--endpoint", endpoint, "--latency", "1ms", "--for", "90s"
    )
    drained = attention(page, f"shop/api → {endpoint}")
    assert re.fullmatch(r"drained, \d\ds left, connections are closed in \d\ds", drained)
    assert re.fullmatch(r"fault \d+: latency 1ms, \d\ds left", attention(page, f"default/web → {endpoint}"))
    page.watched.wait(
        "([title, before]) => [...document.querySelectorAll('.attention li')].find((line) =>"
        " line.querySelector('.about').textContent === title).querySelector('.words').textContent < before",
        [f"shop/api → {endpoint}", drained],
    )
    page.choose()
    state = page.page.locator(f'#endpoints-grid [data-key="{endpoint}"] .condition')
    page.watched.wait("() => document.querySelector('#endpoints-grid').textContent.includes('⚡ fault')")
    assert re.search(r"⚡ fault \d+: latency 1ms, \d\ds left; in use", state.inner_text())
    state.click()
    dialog = page.page.locator("#control")
    dialog.get_by_role("button", name="Clear").click()
    for _ in range(3):
        fetch(page.lab.client, (WEB, 80))
    facts = dialog.locator(".facts").inner_text()
    fetch(page.lab.client, (WEB, 80))
    fetch(page.lab.client, (WEB, 80))
    page.watched.wait("(facts) => document.querySelector('#control .facts').innerText !== facts", facts)
    assert dialog.get_by_role("alert").inner_text() == "End this fault?", "new figures take no question away"
    page.page.keyboard.press("Escape")
    page.lab.node.userproxy("fault", "clear", said.stdout.split()[1].rstrip(":"))
    page.lab.node.userproxy("undrain", "shop/api")
    page.show_all()
    unattended(page, f"shop/api → {endpoint}")
    unattended(page, f"default/web → {endpoint}")


def test_held_clients_are_seen_until_somebody_serves_them(page: Shown) -> None:
    http = [Port(80, "http", target=8080)]
    with page.lab.client.connect((ASLEEP, 80)) as first, page.lab.client.connect((ASLEEP, 80)) as second:
        page.watched.wait(
            "() => document.querySelector('.attention').textContent.includes('2 clients held until an endpoint')"
        )
        page.page.locator('#services-grid [data-key="night/asleep/http/TCP"]').click()
        page.watched.wait("() => document.querySelector('#picture .node.service.warn')?.textContent.includes('2 held')")
        assert "clients are held for 120 s" in (page.page.locator("#picture .node.endpoint").text_content() or "")
        page.lab.manifests.slice("asleep", page.lab.pods[:1], ports=http, namespace="night")
        page.watched.wait("() => !document.querySelector('#picture').textContent.includes('held')")
        for each in (first, second):
            each.send(b"GET / HTTP/1.1\r\nHost: asleep\r\n\r\n")
            assert b"200 OK" in each.recv(1000)
    page.lab.manifests.slice("asleep", [], ports=http, namespace="night")


def test_clients_whom_a_limit_keeps_waiting_are_seen(page: Shown) -> None:
    with page.lab.client.connect((NARROW, 80)):
        page.watched.wait("() => document.querySelector('#connections-grid').textContent.includes('narrow')")
        with page.lab.client.connect((NARROW, 80)):
            assert attention(page, "night/narrow:http") == "1 client waiting: its limits leave no room"
            page.page.locator('#services-grid [data-key="night/narrow/http/TCP"]').click()
            page.watched.wait("() => document.querySelector('#picture').textContent.includes('1 waiting')")
            note = "1 of at most 1 connection, more wait"
            page.watched.wait("(note) => document.querySelector('#subject-note').textContent.includes(note)", note)
    page.show_all()
    unattended(page, "night/narrow:http")


@pytest.mark.parametrize("width", [1900, 1600, 1366, 1190, 1100, 900, 700, 560, 480, 420, 360])
def test_every_column_that_is_shown_is_in_sight(page: Shown, width: int) -> None:
    outside = (
        "(grid) => [...document.querySelectorAll(`#${grid} .head .cell`)].filter((cell) => cell.offsetParent !== null)"
        ".filter((cell) => cell.getBoundingClientRect().right > document.getElementById(grid)"
        ".getBoundingClientRect().right"
        " || [...cell.children].some((child) => child.scrollWidth > cell.clientWidth + 1))"
        ".map((cell) => cell.textContent)"
    )
    page.page.set_viewport_size({"width": width, "height": 800})
    views = {"services": "services-grid", "connections": "connections-grid", "decisions": "decisions-grid"}
    for chosen in (False, True):
        if chosen:
            page.page.evaluate("location.hash = '/default/web/http/TCP'")
            page.watched.wait("() => document.querySelectorAll('#endpoints-grid .space > .row').length > 0")
        for view, grid in {**views, **({"subject": "endpoints-grid"} if chosen else {})}.items():
            if width < 1180:
                page.page.locator(f"nav.views [data-view={view}]").click()
            assert page.page.evaluate(outside, grid) == [], (view, chosen)


def test_everything_is_reached_by_the_keyboard(page: Shown) -> None:
    keyboard = page.page.keyboard
    keyboard.press("/")
    assert page.page.evaluate("document.activeElement.id") == "services-filter"
    while page.page.evaluate("!document.activeElement.matches('#services-grid .space > .row')"):
        keyboard.press("Tab")
    keyboard.press("End")
    assert page.page.evaluate("document.activeElement.ariaRowIndex") == page.page.locator(
        "#services-grid .grid"
    ).get_attribute("aria-rowcount")
    keyboard.press("Home")
    keyboard.press("ArrowDown")
    assert page.page.evaluate("document.activeElement.ariaRowIndex") == "3"
    chosen = page.page.evaluate("document.activeElement.dataset.key")
    keyboard.press("Enter")
    page.watched.wait("(key) => document.querySelector(`[data-key='${key}']`).ariaSelected === 'true'", chosen)
    assert page.page.locator("#said").inner_text().startswith("Shown: ")
    keyboard.press("Escape")
    page.watched.wait("() => document.querySelector('#subject-title').textContent === 'All Services'")
    page.page.locator("#health-button").focus()
    keyboard.press("Enter")
    assert page.page.locator("#health").get_attribute("open") is not None
    keyboard.press("Escape")
    assert page.page.evaluate("document.activeElement.id") == "health-button"


def test_sync_and_health_are_told(page: Shown) -> None:
    page.page.locator("#health-button").click()
    text = page.page.locator("#health-body").inner_text()
    assert "iptables\t● in sync" in text
    assert f"\n{page.proxy.pid}\t" in text
    page.page.locator("#health-close").click()


WELL = {"families": [], "watches": [], "processes": [], "healthy": True, "problems": 0}
PROCESS = {"pid": 7, "descriptors": 10, "descriptor_limit": 100, "loop_lag_seconds": 0.01}


@pytest.mark.parametrize(
    "status",
    [
        WELL,
        {**WELL, "healthy": False},
        {**WELL, "families": [{"family": "IPv4", "served": True, "in_sync": False, "reason": "no"}]},
        {**WELL, "families": [{"family": "IPv6", "served": False, "in_sync": False, "reason": "none here"}]},
        {**WELL, "watches": [{"resource": "services", "synced": False, "reason": ""}]},
        {**WELL, "processes": [{**PROCESS, "descriptors": 90}]},
        {**WELL, "processes": [PROCESS, {**PROCESS, "loop_lag_seconds": 1.0}]},
    ],
)
def test_what_is_wrong_is_what_the_command_says_is_wrong(page: Shown, status: dict[str, Any]) -> None:
    script = "(status) => import('/health.js').then((health) => health.complaints({status, problems: []}))"
    said: list[str] = page.page.evaluate(script, status)
    told = list(complaints(status))
    assert [each.lower()[:20] for each in said] == [each.lower()[:20] for each in told]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1600, 900, 360])
def test_axe_finds_nothing_serious(page: Shown, theme: str, width: int) -> None:
    with page.lab.client.connect((WEB, 80)):
        page.choose()
        page.watched.wait("() => document.querySelectorAll('#connections-grid .space > .row').length === 1")
        page.page.emulate_media(color_scheme=theme)
        page.page.set_viewport_size({"width": width, "height": 800})
        views = ["subject"] if width == 1600 else ["services", "subject", "connections", "decisions"]
        for view in views:
            if width != 1600:
                page.page.locator(f"nav.views [data-view={view}]").click()
            assert page.watched.axe() == []
        page.page.locator("#health-button").click()
        assert page.watched.axe() == []
        page.page.keyboard.press("Escape")


def test_both_themes_and_a_choice_that_is_remembered(page: Shown) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.page.evaluate(ground)
    page.page.emulate_media(color_scheme="dark")
    dark = page.page.evaluate(ground)
    assert light != dark
    button = page.page.locator("#theme")
    button.click()
    assert (button.inner_text(), page.page.evaluate(ground)) == ("Theme: light", light)
    page.page.reload()
    page.watched.wait("() => document.querySelectorAll('#services-grid .space > .row').length > 3")
    assert page.page.evaluate(ground) == light
    button.click()
    assert (button.inner_text(), page.page.evaluate(ground)) == ("Theme: dark", dark)
    button.click()
    assert button.inner_text() == "Theme: system"


def test_a_narrow_page_has_everything_and_nothing_beside_it(page: Shown) -> None:
    page.page.set_viewport_size({"width": 360, "height": 740})
    fits = (
        "document.documentElement.scrollWidth <= 360"
        " && [...document.querySelectorAll('.panel')].every((each) => each.scrollWidth <= 360)"
    )
    for view in ("services", "connections", "decisions", "subject"):
        page.page.locator(f"nav.views [data-view={view}]").click()
        assert [each for each in page.page.locator(".panel").all() if each.is_visible()] != []
        assert page.page.evaluate(fits), view
    page.page.locator("nav.views [data-view=services]").click()
    page.choose()
    assert page.page.locator("body").get_attribute("data-view") == "subject"
    page.watched.wait("() => document.querySelectorAll('#picture .node.endpoint').length === 4")
    assert page.page.evaluate(fits)
    overlapping = page.page.evaluate(
        "[...document.querySelectorAll('#picture text')]"
        ".filter((text) => text.getBBox().x + text.getBBox().width > 350).map((text) => text.textContent)"
    )
    assert overlapping == []


def test_names_of_objects_are_text(page: Shown) -> None:
    """A tenant's words reach the page by reasons, too; none of them becomes an element."""
    assert page.page.evaluate("document.querySelectorAll('main script, main img, main iframe').length") == 0
    refused = page.page.evaluate(
        "() => { try { document.body.insertAdjacentHTML('beforeend', '<b>x</b>'); return false; }"
        " catch { return true; } }"
    )
    page.watched.complaints.clear()  # Chromium says on the console that it has refused that
    assert refused


def test_no_other_page_may_frame_it_or_ask_in_its_name(page: Shown) -> None:
    origin = page.page.url.rstrip("/")
    other = page.page.context.new_page()
    try:
        other.set_content(f'<iframe src="{origin}/"></iframe>')
        other.wait_for_function("() => frames.length === 1")
        (frame,) = [each for each in other.frames if each is not other.main_frame]
        frame.wait_for_load_state()
        assert "userproxy" not in (frame.title() or "")
        answered = other.evaluate(
            "(url) => fetch(url, {credentials: 'include'}).then((answer) => answer.status, () => 'refused')",
            f"{origin}/live",
        )
        assert answered == "refused"
    finally:
        other.close()


def test_an_endpoint_is_drained_and_connections_are_closed(page: Shown) -> None:
    page.choose()
    endpoint = page.page.locator('#endpoints-grid [data-key="10.244.1.2:8080"]')
    dialog = page.page.locator("#control")
    with page.lab.client.connect((WEB, 80)), page.lab.client.connect((WEB, 80)):
        page.watched.wait("() => document.querySelectorAll('#connections-grid .space > .row').length === 2")
        endpoint.click()
        assert "node-1" in dialog.inner_text()
        assert page.watched.axe() == []
        dialog.get_by_role("button", name="Drain", exact=True).click()
        assert "Give no new clients to 10.244.1.2:8080" in dialog.get_by_role("alert").inner_text()
        assert page.lab.node.userproxy("get", "services", "-o", "name").stdout
        dialog.get_by_role("button", name="Drain", exact=True).click()
        page.watched.wait(
            "() => document.querySelector('#control .answer').textContent.includes('No new clients come')"
        )
        page.watched.wait("() => document.querySelector('#control').textContent.includes('◐ Drained since')")
        page.watched.wait("() => document.querySelector('#picture').textContent.includes('drained')")
        dialog.get_by_role("button", name="Close connections").click()
        dialog.get_by_role("button", name="Leave it").click()
        found = page.items("connections", "default/web")
        assert len(found) == 2
        closing = sum(each["endpoint"] == "10.244.1.2:8080" for each in found)  # one, unless data processes take turns
        dialog.get_by_role("button", name="Close connections").click()
        dialog.get_by_role("button", name="Close connections").click()
        told = "1 connection was closed" if closing == 1 else f"{closing} connections were closed"
        page.watched.wait("text => document.querySelector('#control .answer').textContent.includes(text)", told)
        page.watched.wait(
            "left => document.querySelectorAll('#connections-grid .space > .row').length === left", 2 - closing
        )
        dialog.get_by_role("button", name="End the drain").click()
        dialog.get_by_role("button", name="End the drain").click()
        page.watched.wait(
            "() => document.querySelector('#control .answer').textContent.includes('gets new clients again')"
        )
        dialog.get_by_role("button", name="Close", exact=True).click()
    assert page.page.evaluate("document.querySelector('#control').open") is False


def test_one_connection_is_closed_and_another_of_its_client_to_the_same_endpoint_is_not(page: Shown) -> None:
    dialog = page.page.locator("#control")
    address = (API, 80)
    with page.lab.client.connect(address) as first, page.lab.client.connect(address) as second:
        page.page.locator("#connections-filter").fill(f":{_port(first)} ")
        page.watched.wait("() => document.querySelectorAll('#connections-grid .space > .row').length === 1")
        page.page.locator("#connections-grid .space > .row").click()
        dialog.get_by_role("button", name="Close this connection").click()
        assert f"the connection of {page.lab.client.address}:{_port(first)}" in dialog.get_by_role("alert").inner_text()
        dialog.get_by_role("button", name="Close this connection").click()
        page.watched.wait(
            "() => document.querySelector('#control .answer').textContent.includes('1 connection was closed')"
        )
        (left,) = page.items("connections", "shop/api")
        assert left["client"].endswith(f":{_port(second)}")
        dialog.get_by_role("button", name="Close this connection").click()
        dialog.get_by_role("button", name="Close this connection").click()
        page.watched.wait("() => document.querySelector('#control .answer').textContent.includes('had ended already')")
        dialog.get_by_role("button", name="Close", exact=True).click()


def test_a_fault_set_in_the_page_slows_real_connections(page: Shown) -> None:
    page.choose()
    page.page.locator('#endpoints-grid [data-key="10.244.1.2:8080"]').click()
    dialog = page.page.locator("#control")
    dialog.locator("[name=fault-milliseconds]").fill("700")
    assert page.watched.axe() == []
    dialog.get_by_role("button", name="Set the fault").click()
    assert "answers 700 ms later" in dialog.get_by_role("alert").inner_text()
    dialog.get_by_role("button", name="Set the fault").click()
    page.watched.wait("() => document.querySelector('#control .answer').textContent.includes('The fault is set')")
    page.watched.wait("() => document.querySelectorAll('#control .faults li').length === 1")
    page.watched.wait("() => document.querySelector('#picture').textContent.includes('⚡')")
    taken = [_timed(page) for _ in range(4)]
    slowed = [seconds for pod, seconds in taken if pod == "web-1"]
    assert slowed
    assert all(seconds >= 0.7 for seconds in slowed), taken
    dialog.get_by_role("button", name="Clear").click()
    dialog.get_by_role("button", name="Clear").click()
    page.watched.wait("() => document.querySelectorAll('#control .faults li').length === 0")
    dialog.get_by_role("button", name="Close", exact=True).click()


def _timed(page: Shown) -> tuple[str, float]:
    """Which Pod has answered a client, and how many seconds that took."""
    began = time.monotonic()
    answer = fetch(page.lab.client, (WEB, 80))
    return answer.pod, time.monotonic() - began


def test_udp_flows_are_connections_too(page: Shown) -> None:
    ask(page.lab.client, (DNS, 53))
    page.page.locator("#connections-filter").fill("udp")
    page.watched.wait("() => document.querySelectorAll('#connections-grid .space > .row').length === 1")
    assert page.cells("connections-grid", "stage") == ["open UDP"]


def test_the_proxy_goes_and_comes_back(page: Shown) -> None:
    page.proxy.terminate()
    text = page.watched.wait("() => document.querySelector('#trouble').textContent")
    assert "It is asked again every second." in text
    assert "Proxy gone" in page.page.locator("#health-button").inner_text()
    page.proxy = page.lab.node.start_userproxy(*QUICK)
    page.watched.wait("() => document.querySelector('#trouble').hidden")
    page.watched.wait("() => !document.querySelector('#health-button').textContent.includes('Proxy gone')")


def test_the_dashboard_itself_ends(page: Shown) -> None:
    assert page.dashboard.terminate() == 0
    text = page.watched.wait("() => document.querySelector('#trouble').textContent")
    assert "`userproxy dashboard` does not answer" in text
    assert [each for each in page.watched.complaints if "ERR_" not in each and "Failed to load" not in each] == []
    page.watched.complaints.clear()
