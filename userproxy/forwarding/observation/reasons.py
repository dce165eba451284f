"""Why something was not reached, or was ended: in words for people, and by kind for figures."""

import errno
import os
from typing import Final

from userproxy.model.reports import DialFailure

GIVEN_UP: Final = "handling it failed"
"""A connection or flow is ended where no other reason is given: see :mod:`~userproxy.forwarding.failures`."""

MADE_ROOM: Final = "made room for others"

ENDPOINT_GONE: Final = "the endpoint is gone"

RESET_BY_CLIENT: Final = "reset by the client"

RESET_BY_ENDPOINT: Final = "reset by the endpoint"

_KINDS: Final = {
    errno.ECONNREFUSED: DialFailure.REFUSED,
    errno.ETIMEDOUT: DialFailure.TIMED_OUT,
    errno.EADDRNOTAVAIL: DialFailure.NO_LOCAL_PORT,
    errno.ELOOP: DialFailure.ROUTING_LOOP,
    errno.EHOSTUNREACH: DialFailure.UNREACHABLE,
    errno.ENETUNREACH: DialFailure.UNREACHABLE,
    errno.EHOSTDOWN: DialFailure.UNREACHABLE,
    errno.ENETDOWN: DialFailure.UNREACHABLE,
    errno.ENOPROTOOPT: DialFailure.UNREACHABLE,
    errno.EACCES: DialFailure.UNREACHABLE,
}
"""What ICMP and routing say of an endpoint (icmp(7)), and what we say ourselves."""

_WORDS: Final = {
    errno.ELOOP: "it is a listener of userproxy itself",
    errno.EADDRNOTAVAIL: "no local port is left towards it",
}


def in_words(error: int) -> tuple[str, DialFailure]:
    """What an errno says of an endpoint that was dialled."""
    return _WORDS.get(error) or os.strerror(error), _KINDS.get(error, DialFailure.OTHER)
