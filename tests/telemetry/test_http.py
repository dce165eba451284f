"""Listening sockets of our HTTP servers, and what of aiohttp's log is kept."""

import socket

import pytest
from aiohttp.http_exceptions import BadHttpMessage
from structlog.testing import capture_logs

from userproxy.addresses import SocketAddress
from userproxy.errors import PortUnavailableError
from userproxy.telemetry.http import http_logger, listening_socket


@pytest.mark.parametrize(
    ("host", "both", "accepted"),
    [
        ("127.0.0.1", True, {"127.0.0.1": True, "::1": False}),
        ("0.0.0.0", True, {"127.0.0.1": True, "::1": False}),
        ("::1", True, {"127.0.0.1": False, "::1": True}),
        ("::", True, {"127.0.0.1": True, "::1": True}),
        ("::", False, {"127.0.0.1": False, "::1": True}),
    ],
)
def test_who_reaches_a_socket(host: str, both: bool, accepted: dict[str, bool]) -> None:
    with listening_socket(SocketAddress(host, 0), both_families=both) as listening:
        port = listening.getsockname()[1]
        assert {address: reaches(address, port) for address in accepted} == accepted


def reaches(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_taken_port_is_named_with_its_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = rf"^cannot listen on 127\.0\.0\.1:{port}: Address already in use$"
        with pytest.raises(PortUnavailableError, match=text):
            listening_socket(SocketAddress("127.0.0.1", port))


def test_an_address_that_is_not_ours_is_named() -> None:
    with pytest.raises(PortUnavailableError, match=r"192\.0\.2\.1:9: Cannot assign requested address$"):
        listening_socket(SocketAddress("192.0.2.1", 9))


def test_bugs_are_logged_and_bad_requests_of_clients_are_not() -> None:
    logger = http_logger()
    with capture_logs() as logs:
        logger.error("Error handling request", exc_info=BadHttpMessage("nonsense"))
        logger.error("Error handling request", exc_info=ZeroDivisionError("bug"))
        logger.info("client connected")
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("Error handling request", "error")
    assert isinstance(line["exc_info"], ZeroDivisionError)
