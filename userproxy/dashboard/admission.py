"""Who may see the page: the link's token, the sessions that come of it, and what a request's head must say. Pure.

A page on loopback can be reached by every program of the machine, and by every site that a browser of the machine has
open. The token says that somebody was given the link; a Host and an Origin other than ours say that another site asks;
which user's program a connection is of is looked at in :mod:`userproxy.dashboard.peers`.
"""

import hmac
from collections.abc import Callable, Mapping
from typing import Final

HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " require-trusted-types-for 'script'; trusted-types 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of every answer."""

_FRAMES: Final = frozenset({"iframe", "frame", "embed", "object", "fencedframe"})
_FIRST_HAND: Final = frozenset({"same-origin", "none"})


class Admission:
    """One token, which opens one session. `make` makes unguessable texts. `port` is where the page is."""

    def __init__(self, port: int, make: Callable[[], str]) -> None:
        self.cookie: Final = f"userproxy-dashboard-{port}"
        """The session cookie's name. Cookies are the same at all ports of an address, so it names ours."""
        self._hosts: Final = (f"127.0.0.1:{port}", f"localhost:{port}")
        self._make = make
        self._token: str | None = make()
        self._session: str | None = None

    @property
    def link(self) -> str:
        """Where the page is, with the token in the fragment, which browsers send to nobody."""
        return f"http://{self._hosts[0]}/#token={self._token}"

    def exchange(self, token: str) -> str | None:
        """The session that a token opens. None if it is wrong, or was used before: it opens one session only."""
        if self._token is None or not _same(token, self._token):
            return None
        self._token = None
        self._session = self._make()
        return self._session

    def knows(self, session: str) -> bool:
        """Whether a session is the one that was opened."""
        return self._session is not None and _same(session, self._session)

    def refusal(self, method: str, headers: Mapping[str, str]) -> str | None:
        """Why a request is refused for what its head says; None if it is not.

        `headers` are to be found by any spelling. Browsers say by Sec-Fetch-* who asks and what for; programs need not.
        """
        host = headers.get("Host", "")
        if host not in self._hosts:
            return f"this page is at {self._hosts[0]}, and nobody else's name leads to it"
        origin = headers.get("Origin")
        changes = method not in ("GET", "HEAD")
        if (origin is None and changes) or (origin is not None and origin != f"http://{host}"):
            return "another site, or none, has sent this request: only the page itself may"
        if headers.get("Sec-Fetch-Site", "none") not in _FIRST_HAND:
            return "another site has sent this request: open the link itself"
        if headers.get("Sec-Fetch-Dest") in _FRAMES:
            return "this page is not shown inside another one"
        if changes and headers.get("Content-Type", "").partition(";")[0].strip() != "application/json":
            return "changes are asked for with JSON"
        return None


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode())
