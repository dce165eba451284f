"""Where the time goes in which nobody is served."""

import time


class Phases:
    """How long each phase has taken since this was made, or since the phase before.

    `found` has, by the name of each, its seconds and those of the processor.
    """

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._since = self.began, time.thread_time()
        self.found: dict[str, tuple[float, float]] = {}

    def reached(self, name: str) -> None:
        """The end of a phase."""
        before, self._since = self._since, (time.monotonic(), time.thread_time())
        wall, processor = (round(now - then, 5) for now, then in zip(self._since, before, strict=True))
        self.found[name] = wall, processor

    @property
    def seconds(self) -> float:
        """Those of all phases together."""
        return self._since[0] - self.began
