"""What all our HTTP servers share: listening sockets, limits, headers, and the logger for aiohttp."""

import logging
import os
import socket
from typing import Final

import structlog
from aiohttp.http_exceptions import HttpProcessingError

from userproxy.addresses import SocketAddress, socket_family
from userproxy.errors import PortUnavailableError

log = structlog.get_logger()

SHUTDOWN_SECONDS: Final = 0.5
"""How long answers under way may take when a server closes. aiohttp's own 60 s would delay a stop."""

_QUEUE: Final = 1024
"""Clients that wait in the kernel to be accepted. If it is full, a client's TCP tries again after a second."""

NO_SNIFFING: Final = {"X-Content-Type-Options": "nosniff"}
JSON: Final = {"Content-Type": "application/json", **NO_SNIFFING}


def listening_socket(address: SocketAddress, *, both_families: bool = True) -> socket.socket:
    """A listening socket at `address`. With `both_families`, ``::`` accepts IPv4 clients, too, as Go's servers do.

    Raises PortUnavailableError with a text that names the address and the reason.
    """
    try:
        return socket.create_server(
            (address.host, address.port),
            family=socket_family(address.host),
            backlog=_QUEUE,
            dualstack_ipv6=both_families and address.host == "::",
        )
    except OSError as error:
        number = error.errno or 0  # getaddrinfo(3) has negative ones of its own
        reason = os.strerror(number) if number > 0 else str(error)
        raise PortUnavailableError(f"cannot listen on {address}: {reason}") from error


class _ToOurLog(logging.Handler):
    """Passes aiohttp's errors on to our log, except those about clients: scanners reach the health port, too."""

    def emit(self, record: logging.LogRecord) -> None:
        cause = record.exc_info[1] if record.exc_info else None
        if not isinstance(cause, HttpProcessingError):
            log.error(record.getMessage(), exc_info=cause)


def http_logger() -> logging.Logger:
    """A logger for aiohttp that writes to our log."""
    logger = logging.Logger("userproxy.http", logging.WARNING)  # noqa: LOG001 -- one in logging's tree is a global
    logger.addHandler(_ToOurLog())
    return logger
