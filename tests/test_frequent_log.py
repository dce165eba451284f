"""Lines that are asked for often."""

import io
from collections.abc import Iterator

import pytest
import structlog

from userproxy.frequent_log import FrequentLog
from userproxy.telemetry.logging import configure


class Costly:
    """A field that says when it is made text."""

    made = 0

    def __repr__(self) -> str:
        type(self).made += 1
        return "costly"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_lines_are_shown_as_other_lines_are() -> None:
    out = io.StringIO()
    configure(3, "json", out)
    FrequentLog().debug("Endpoints", v=3, service_port="shop/web")
    assert '"service_port": "shop/web", "event": "Endpoints", "level": "debug"' in out.getvalue()


def test_lines_above_the_verbosity_are_not_shown() -> None:
    out = io.StringIO()
    configure(2, "json", out)
    log = FrequentLog()
    log.debug("Endpoints", v=3)
    assert log.shows_debug
    assert out.getvalue() == ""


def test_without_verbosity_nothing_need_be_made() -> None:
    out = io.StringIO()
    configure(0, "json", out)
    log = FrequentLog()
    log.debug("Endpoints", v=3, costly=Costly())
    assert not log.shows_debug
    assert (out.getvalue(), Costly.made) == ("", 0)


def test_it_follows_another_verbosity_and_another_stream() -> None:
    configure(0, "json", io.StringIO())
    log = FrequentLog()
    assert not log.shows_debug
    out = io.StringIO()
    configure(4, "json", out)
    log.debug("Delivered", v=4)
    assert "Delivered" in out.getvalue()
    configure(0, "json", out)
    log.debug("Delivered again", v=4)
    assert "again" not in out.getvalue()
