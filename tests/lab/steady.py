"""A client that asks at a steady rate, whatever becomes of its requests, and remembers each."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple, Self

from userproxy.demo.hosts import Address, Host
from userproxy.demo.traffic import fetch
from userproxy.demo.waiting import eventually

_MOST_AT_ONCE = 32


class Attempt(NamedTuple):
    """One request on a connection of its own: when it began (time.monotonic), its failure if any, its seconds."""

    began: float
    failure: str
    seconds: float


class SteadyClient:
    """Sends `rate` requests a second from `host` until it is closed. Use as a context manager."""

    def __init__(self, host: Host, address: Address, rate: float = 50.0, timeout: float = 5.0) -> None:
        self._host = host
        self._address = address
        self._timeout = timeout
        self._pause = 1 / rate
        self._attempts: list[Future[Attempt]] = []
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(_MOST_AT_ONCE, thread_name_prefix="steady")
        self._thread = threading.Thread(target=self._run, name="steady client", daemon=True)

    @property
    def attempts(self) -> list[Attempt]:
        """Those that have ended, in the order of their beginning."""
        return [future.result() for future in list(self._attempts) if future.done()]

    @property
    def failures(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.failure]

    @property
    def gap(self) -> float:
        """Seconds from the first request that failed to the next one after all failures that did not; 0 without any."""
        failures = self.failures
        if not failures:
            return 0.0
        last = failures[-1].began
        return min(each.began for each in self.attempts if each.began > last) - failures[0].began

    def go_on(self, requests: int = 25, seconds: float = 30.0) -> None:
        """Return once so many more requests have succeeded."""
        before = len(self.attempts)
        eventually(
            lambda: sum(not each.failure for each in self.attempts[before:]) >= requests,
            seconds,
            f"{requests} more requests that succeed",
        )

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            self._attempts.append(self._pool.submit(self._attempt))
            due += self._pause

    def _attempt(self) -> Attempt:
        began = time.monotonic()
        try:
            fetch(self._host, self._address, self._timeout)
        except OSError as error:
            return Attempt(began, f"{type(error).__name__}: {error}", time.monotonic() - began)
        return Attempt(began, "", time.monotonic() - began)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._pool.shutdown()
