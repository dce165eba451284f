"""Limits of a Service's clients: how many there may be, how fast they may come, and how quiet they may be."""

from enum import StrEnum

from msgspec import Struct


class Overflow(StrEnum):
    """What becomes of a client who may not be served now.

    WAIT: it waits in the kernel's queue until it may, for `--queue-timeout` at most. REFUSE: it is reset at once.
    """

    WAIT = "wait"
    REFUSE = "refuse"


class Limits(Struct, frozen=True, gc=False):
    """Limits of a service port on this node, over all processes. None is no limit; of UDP there is the first alone.

    ``connections`` is how many there may be at a time, those included that are being dialled, or how many flows;
    ``rate`` is how many clients may be served a second. A connection on which nothing was said for ``idle`` seconds is
    reset.
    """

    connections: int | None = None
    overflow: Overflow = Overflow.WAIT
    rate: float | None = None
    idle: float | None = None

    @property
    def holds_back(self) -> bool:
        """Whether a client may have to wait, or is refused."""
        return self.connections is not None or self.rate is not None
