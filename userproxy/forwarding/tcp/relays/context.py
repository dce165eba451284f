"""What all relays of a process share."""

from typing import TYPE_CHECKING, Final

from userproxy.forwarding.deadlines import DeadlineQueue
from userproxy.forwarding.observation.recorder import Recorder
from userproxy.forwarding.poller import Poller
from userproxy.forwarding.tcp.direction import DirectionContext
from userproxy.forwarding.tcp.pipes import PipePool
from userproxy.forwarding.tcp.source_ports import SourcePorts

if TYPE_CHECKING:
    from userproxy.forwarding.tcp.relay import Relay

CLOSING_SECONDS: Final = 1.0
"""Most half-closed connections have ended after this time; the kernel is asked only then what they have delivered."""


class RelayContext(DirectionContext):
    """What all relays of a process share: besides what directions do, the half-open time limit and local ports.

    Half-closed ones are in `closing` first, and then in `half_open`.
    `shared` is whether another process has copies of their sockets, for a hand-over: then close(2) alone tells
    their peers nothing.
    """

    __slots__ = ("closing", "half_open", "recorder", "shared", "source_ports")

    def __init__(
        self,
        poller: Poller,
        pipes: PipePool,
        closing: "DeadlineQueue[Relay]",
        half_open: "DeadlineQueue[Relay]",
        source_ports: SourcePorts,
        recorder: Recorder,
    ) -> None:
        super().__init__(poller, pipes)
        self.recorder = recorder
        self.closing = closing
        self.half_open = half_open
        self.source_ports = source_ports
        self.shared = False
