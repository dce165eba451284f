"""A real browser: Chromium, in a host of the lab or in this network namespace, driven by playwright."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from shutil import which
from typing import Any, Final, TypeAlias

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from userproxy.demo.hosts import Host

WAIT_MILLISECONDS: Final = 30_000
"""How long anything may take to be seen: on machines that do much else, too."""

Finding: TypeAlias = tuple[str, str, list[str]]
"""What axe finds: a rule, how bad it is, and where."""

_SERIOUS: Final = ("serious", "critical")


class Watched:
    """A page, and what its console has said that should not have been: errors, warnings, uncaught exceptions."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.set_default_timeout(WAIT_MILLISECONDS)
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def wait(self, expression: str, argument: Any = None) -> Any:
        """What a JavaScript expression, a function of `argument`, says once that is true."""
        return self.page.wait_for_function(expression, arg=argument, timeout=WAIT_MILLISECONDS).json_value()

    def axe(self) -> list[Finding]:
        """What axe-core finds in the page as it is now that is serious or worse."""
        source = (files("axe_playwright_python") / "axe.min.js").read_text("utf-8")
        self.page.evaluate(source)
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']}).then((found) => found.violations)")
        return [
            (each["id"], each["impact"], [node["html"][:120] for node in each["nodes"]])
            for each in found
            if each["impact"] in _SERIOUS
        ]


@contextmanager
def chromium(folder: Path, host: Host | None = None) -> Iterator[Browser]:
    """Chromium, in the network namespace of `host` or in ours. Raises AssertionError where it is not installed."""
    program = which("chromium")
    assert program is not None, "chromium is missing: make test-packages installs it"
    if host is not None:
        wrapper = folder / "chromium"
        wrapper.write_text(f'#!/bin/sh\nexec nsenter -t {host.pid} -n {program} "$@"\n')
        wrapper.chmod(0o755)
        program = str(wrapper)
    with sync_playwright() as playwright:
        # Tests run as root, for whom Chromium has no sandbox; containers may have a small /dev/shm.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, link: str, width: int = 1600, height: int = 950) -> Iterator[Watched]:
    """A page in a window of its own, with cookies of its own."""
    context: BrowserContext = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce")
    try:
        watched = Watched(context.new_page())
        watched.page.goto(link)
        yield watched
    finally:
        context.close()
