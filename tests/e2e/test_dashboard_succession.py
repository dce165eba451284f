"""The dashboard in a real browser while one userproxy takes over from another, and while none runs."""

import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Final

import pytest

from tests.lab.browser import Watched, chromium, opened
from tests.lab.cluster import QUICK, Lab
from tests.lab.probes import KeptConnection
from tests.lab.proxy import installed_command
from userproxy.demo.hosts import Address
from userproxy.demo.programs import Program
from userproxy.demo.traffic import fetch, fetch_many

pytestmark = pytest.mark.e2e

WEB: Final[Address] = ("10.96.0.10", 80)
BEFORE: Final = 1000
"""Connections before the take-over: a jump in the figures would be as great."""

MOST_RATE: Final = 400
"""Connections a second that one client can never make here, one after the other, and far fewer than a jump has."""

_COLLECT: Final = """
window.rates = [];
const place = document.querySelector("[data-total=opened_rate]");
new MutationObserver(() => window.rates.push(Number(place.textContent.replace(",", ""))))
  .observe(place, { childList: true, characterData: true, subtree: true });
"""


@contextmanager
def traffic(lab: Lab) -> Iterator[None]:
    """One client after the other, whether served or not."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(0.02):
            with suppress(OSError, HTTPException):
                fetch(lab.client, WEB, timeout=5)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def rates(watched: Watched) -> list[float]:
    found: list[float] = watched.page.evaluate("window.rates")
    return found


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_page_goes_on_with_a_successor_and_with_a_proxy_that_returns(
    lab: Lab, tmp_path: Path, workers: str
) -> None:
    lab.serve_http()
    lab.manifests.service("web", cluster_ip=WEB[0])
    lab.manifests.slice("web", lab.pods)
    first = lab.node.start_userproxy(*QUICK, "--workers", workers)
    lab.settle()
    with ExitStack() as stack:
        dashboard = stack.enter_context(Program(lab.node, [installed_command(), "dashboard", "--no-open"]))
        browser = stack.enter_context(chromium(tmp_path, lab.node))
        watched = stack.enter_context(opened(browser, dashboard.wait_line("http://")))
        kept = stack.enter_context(KeptConnection(lab.client, WEB))
        kept.ask()
        watched.wait("() => document.querySelectorAll('#connections-grid .space > .row').length === 1")
        watched.page.evaluate(_COLLECT)
        assert not fetch_many(lab.client, WEB, BEFORE).failures
        watched.wait("() => window.rates.some((rate) => rate > 0) && window.rates.at(-1) === 0")
        watched.page.evaluate("window.rates = []")
        with traffic(lab):
            watched.wait("() => window.rates.some((rate) => rate > 0)")
            second = lab.node.start_userproxy(*QUICK, "--workers", workers, "--takeover")
            second.wait_log("Taken over", 60)
            said = watched.wait("() => document.querySelector('#news').textContent")
            assert f"process {second.pid} serves in the place of process {first.pid}" in said
            watched.page.evaluate("window.seen = window.rates.length")
            watched.wait("() => window.rates.slice(window.seen).filter((rate) => rate > 0).length >= 3")
            assert kept.ask().pod
            watched.wait("() => document.querySelector('#trouble').hidden")
        found = rates(watched)
        assert 0 <= min(found) <= max(found) < MOST_RATE, found
        kept.close()
        second.terminate()
        assert "It is asked again every second." in watched.wait("() => document.querySelector('#trouble').textContent")
        third = lab.node.start_userproxy(*QUICK, "--workers", workers)
        watched.wait("() => document.querySelector('#trouble').hidden")
        said = watched.wait("() => document.querySelector('#news').textContent")
        assert re.search(rf"process {third.pid} serves in the place of process {second.pid}, after \d+s in which", said)
        lab.node.wait_for_portal(*WEB)
        watched.page.evaluate("window.seen = window.rates.length")
        with traffic(lab):
            watched.wait("() => window.rates.slice(window.seen).filter((rate) => rate > 0).length >= 3")
        found = rates(watched)
        assert 0 <= min(found) <= max(found) < MOST_RATE, found
        assert watched.complaints == []
