"""What a line looks like, and which lines there are."""

import io
import json

import pytest
import structlog

from userproxy.telemetry.logging import configure


def lines(verbosity: int, log_format: str | None = None) -> list[str]:
    out = io.StringIO()
    configure(verbosity, log_format, out)
    log = structlog.get_logger()
    log.info("Portals: iptables", bind_address="0.0.0.0")
    log.debug("Service port added", v=1, service_port="default/web:http")
    log.debug("Endpoints", v=3, endpoints="[fd00::15]:53 10.0.0.1:80")
    log.error("Accepting pauses", reason="no memory")
    return out.getvalue().splitlines()


def test_json_is_one_object_a_line() -> None:
    first, last = (json.loads(line) for line in lines(0))
    assert (first["event"], first["level"], first["bind_address"]) == ("Portals: iptables", "info", "0.0.0.0")
    assert "v" not in first
    assert (last["event"], last["level"]) == ("Accepting pauses", "error")


@pytest.mark.parametrize(("verbosity", "count"), [(0, 2), (1, 3), (2, 3), (3, 4), (9, 4)])
def test_verbosity_is_kube_proxys(verbosity: int, count: int) -> None:
    assert len(lines(verbosity)) == count


def test_text_keeps_addresses_as_they_are() -> None:
    printed = lines(3, "text")
    assert any("[fd00::15]:53" in line for line in printed)
    assert not any(line.startswith("{") for line in printed)


def test_an_exception_is_part_of_its_line() -> None:
    out = io.StringIO()
    configure(0, "json", out)
    try:
        raise ValueError("broken")
    except ValueError as error:
        structlog.get_logger().error("A bug", exc_info=error)
    (line,) = out.getvalue().splitlines()
    assert "ValueError: broken" in json.loads(line)["exception"]
