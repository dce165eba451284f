"""What all of our HTTP servers have in common: sockets, limits, headers and what of aiohttp's log is kept."""

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
"""How long answers under way may take at the end; they are small, and aiohttp's own 60 s would hold up a stop."""

_QUEUE: Final = 1024
"""Clients that wait in the kernel to be accepted. Who finds it full comes again after a second, as TCP has it."""

NO_SNIFFING: Final = {"X-Content-Type-Options": "nosniff"}
JSON: Final = {"Content-Type": "application/json", **NO_SNIFFING}


def listening_socket(address: SocketAddress, *, both_families: bool = True) -> socket.socket:
    """A listening socket at `address`. With `both_families` ``::`` takes IPv4 clients, too, as Go has it.

    Raises PortUnavailableError, whose text says where it cannot listen and why.
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
    """Passes aiohttp's complaints on, except those about clients: scanners reach the health port too."""

    def emit(self, record: logging.LogRecord) -> None:
        cause = record.exc_info[1] if record.exc_info else None
        if not isinstance(cause, HttpProcessingError):
            log.error(record.getMessage(), exc_info=cause)


def http_logger() -> logging.Logger:
    """A logger for aiohttp that writes to our log."""
    logger = logging.Logger("userproxy.http", logging.WARNING)  # noqa: LOG001 -- one in logging's tree is a global
    logger.addHandler(_ToOurLog())
    return logger
