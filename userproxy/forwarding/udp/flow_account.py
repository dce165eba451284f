"""What a flow counts and tells: its bytes, the endpoints that have refused it, and what has become of it."""

import errno
from typing import Final

from userproxy.forwarding.observation.counters import EndpointCounters
from userproxy.forwarding.observation.reasons import in_words
from userproxy.forwarding.observation.recorder import FailedDial, Peer
from userproxy.forwarding.udp.flows import Flow
from userproxy.forwarding.udp.surroundings import Listener
from userproxy.model import Endpoint
from userproxy.model.reports import ChangeKind, Outcome, Source

TRIES: Final = 4
"""Endpoints that a datagram is sent to at most, each because the one before refused it; kube-proxy's dial attempts."""


class FlowAccount(Flow):
    """The account of one client of one listener.

    `failed` are the endpoints that have refused its datagrams since it was last answered, `retries` how many there
    were before. `portal` is what its client writes to, None where that is not known. `source` is whose address its
    endpoint sees. `settled_up` and `settled_down` are the bytes that its endpoint's counters have already.
    """

    __slots__ = (
        "_statistics",
        "address",
        "bytes_down",
        "bytes_up",
        "counters",
        "endpoint",
        "failed",
        "id",
        "listener",
        "opened",
        "peer",
        "portal",
        "retries",
        "settled_down",
        "settled_up",
        "source",
    )

    def __init__(self, listener: Listener, client: bytes, peer: Peer, now: float) -> None:
        super().__init__(client)
        recorder = listener.plane.recorder
        self.id = recorder.last_id = recorder.last_id + 1
        self.listener = listener
        self.portal = listener.portal
        self.peer = peer
        self.address = peer[0]
        self.opened = now
        self.endpoint: Endpoint | None = None
        self.source: Source | None = None
        self.counters: EndpointCounters | None = None
        self.failed: tuple[FailedDial, ...] = ()
        self.retries = 0
        self.bytes_up = 0
        self.bytes_down = 0
        self.settled_up = 0
        self.settled_down = 0
        self._statistics = listener.statistics

    def note_lost(self, reason: str, now: float) -> None:
        """Note that nobody has taken its client's datagram, unless enough was said of lost datagrams just now."""
        if self.listener.losses.take(self.client, now):
            self.note(Outcome.DROPPED, reason)
        else:
            self.retries += len(self.failed)
            self.failed = ()

    def note(self, outcome: Outcome, reason: str = "") -> None:
        """Note what has become of it, and why, together with the endpoints that have failed."""
        failed, self.failed = self.failed, ()
        self.retries += len(failed)
        listener = self.listener
        now = listener.now()
        endpoint = None if outcome is Outcome.DROPPED and failed else self.endpoint
        listener.decisions.add(
            (
                now,
                listener.name,
                self.peer,
                self.portal,
                endpoint,
                outcome,
                reason,
                failed,
                now - self.opened,
                self.bytes_up,
                self.bytes_down,
                self.source,
                self.id,
            )
        )

    def settle(self) -> None:
        """Count the bytes that it has moved since they were last counted for its endpoint."""
        if self.counters is not None:
            self.counters.bytes_up += self.bytes_up - self.settled_up
            self.counters.bytes_down += self.bytes_down - self.settled_down
            self.settled_up, self.settled_down = self.bytes_up, self.bytes_down

    def _tell_of_change(self) -> None:
        recorder = self.listener.plane.recorder
        if recorder.connection_watches:
            recorder.tell_change(ChangeKind.MODIFIED, self)

    def _note_failure(self, endpoint: Endpoint, number: int | None, now: float) -> None:
        words, kind = in_words(number or errno.EIO)
        note = self.listener.chooser.suspect(endpoint, now, words)
        self.failed = (*self.failed[1 - TRIES :], (endpoint, f"{words}; {note}" if note else words, kind))
        self._statistics.dial_failures += 1
        self._statistics.failed(endpoint, kind)

    def _note_retried(self) -> None:
        self._statistics.retried += 1
        self.note(Outcome.RETRIED, self.failed[-1][1])

    def _note_end(self, reason: str, outcome: Outcome) -> None:
        if self.counters is None:
            return
        recorder = self.listener.plane.recorder
        if recorder.connection_watches:
            recorder.tell_change(ChangeKind.REMOVED, self)
        if self.failed:
            self._note_retried()
        self._leave_endpoint()
        self._statistics.ended += 1
        self._statistics.seconds += self.listener.now() - self.opened
        self.note(outcome, reason)

    def _leave_endpoint(self) -> None:
        if self.counters is not None:
            self.settle()
            self.counters.active -= 1
            self.counters = None
