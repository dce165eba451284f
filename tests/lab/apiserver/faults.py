"""What is to go wrong, and for how long: every fault has a count or a time after which it is over."""

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from tests.lab.apiserver.resources import Resource, resource_of
from tests.lab.apiserver.status import ApiError

Cut = Literal["line", "utf8", "chunk", "between", "end"]
"""Where a stream is cut: within a line, a character or a chunk; between lines without a last chunk; or in order."""


class Trouble(Struct):
    """What becomes of the next `left` requests, of one resource (plural) or of any.

    `status` answers with that code; 0 sends no answer for `seconds`; 1 sends half of it.
    """

    left: int
    status: int
    resource: str | None = None
    retry_after: int | None = None
    seconds: float = 0.0


HANG = 0
TRUNCATE = 1


class Faults:
    """The faults of requests and of streams' bytes. Faults of streams under way are the streams' own."""

    def __init__(self) -> None:
        self.forbidden: set[str] = set()
        self.held: set[str] = set()
        self.clock_ahead: float = 0.0
        """How many seconds the server's clock is ahead of ours, in its answers."""
        self.gone_as: Literal["event", "http"] = "event"
        self.streaming_lists: int = 200
        """200, or the code that a client gets that asks for one."""
        self.progress: bool = True
        """Whether etcd tells its progress, without which a streamed list is accepted and then fails."""
        self.slow: tuple[int, float] | None = None
        """Bytes per chunk of a stream and the pause after each, in seconds."""
        self._troubles: list[Trouble] = []

    def add(self, trouble: Trouble) -> None:
        self._troubles.append(trouble)

    def next_trouble(self, resource: Resource) -> Trouble | None:
        """What is to happen to this request; counts it."""
        for trouble in self._troubles:
            if trouble.resource in (None, resource.plural):
                trouble.left -= 1
                self._troubles = [each for each in self._troubles if each.left > 0]
                return trouble
        return None

    def check_streaming_lists(self) -> None:
        """Raises ApiError where the server does not offer them."""
        if self.streaming_lists == 422:
            raise ApiError(
                422,
                'ListOptions.meta.k8s.io "" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden'
                " for watch unless the WatchList feature gate is enabled",
            )
        if self.streaming_lists != 200:
            raise ApiError(self.streaming_lists)


def plurals(names: Iterable[str]) -> set[str]:
    """Resources by kind or plural, as plurals."""
    return {resource_of(name).plural for name in names}
