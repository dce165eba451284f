"""Looks at a running proxy's figures again and again, and says what has happened between two looks."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Final

from userproxy.admin.client import AdminClient, AdminError, CutOffError
from userproxy.cli.output.tables import Item
from userproxy.cli.top.clients import ClientTraffic
from userproxy.cli.top.rates import Look, Row, endpoint_key, endpoint_rows, service_key, service_rows

_LONGEST_WAIT: Final = 5.0
"""Seconds until which decisions are told of, or the proxy has said why not."""


class Sampler(ABC):
    """Makes the rows of one kind. Raises AdminError."""

    note = ""
    """What a person should know of the last rows, if anything."""

    def __init__(self, client: AdminClient, query: Mapping[str, str]) -> None:
        self._client = client
        self._query = dict(query)

    @abstractmethod
    def rows(self) -> list[Row]:
        """What has happened since the last call; at the first one, only what there is."""


class _Counting(Sampler):
    """Compares counters."""

    route: str
    key: Callable[[Item], str]

    def __init__(self, client: AdminClient, query: Mapping[str, str]) -> None:
        super().__init__(client, query)
        self._before: Look | None = None

    def rows(self) -> list[Row]:
        """As the base has it."""
        items = list(self._client.items(self.route, **self._query))
        after = Look(time.monotonic(), {type(self).key(item): item for item in items})
        before, self._before = self._before or after, after
        return self._compared(before, after)

    @abstractmethod
    def _compared(self, before: Look, after: Look) -> list[Row]:
        """The rows between two looks."""


class ServiceSampler(_Counting):
    """Service ports, with the dial times of their endpoints."""

    route = "services"
    key = staticmethod(service_key)

    def _compared(self, before: Look, after: Look) -> list[Row]:
        return service_rows(before, after, self._client.items("endpoints", **self._query))


class EndpointSampler(_Counting):
    """Endpoints of service ports."""

    route = "endpoints"
    key = staticmethod(endpoint_key)

    def _compared(self, before: Look, after: Look) -> list[Row]:
        return endpoint_rows(before, after)


class ClientSampler(Sampler):
    """Clients. A thread reads decisions as they come: connections that are over before the next look count, too."""

    def __init__(self, client: AdminClient, query: Mapping[str, str]) -> None:
        super().__init__(client, query)
        self._traffic = ClientTraffic()
        self._lock = threading.Lock()
        self._failure: AdminError | None = None
        self._lost = 0
        self._looked = time.monotonic()
        self._ready = threading.Event()
        threading.Thread(target=self._read, name="decisions", daemon=True).start()
        self._is_first = True

    def rows(self) -> list[Row]:
        """As the base has it."""
        self._ready.wait(_LONGEST_WAIT)
        connections = list(self._client.items("connections", **self._query))
        now = time.monotonic()
        with self._lock:
            if self._failure is not None:
                raise self._failure
            rows = self._traffic.rows(connections, now - self._looked)
            self._looked = now
            self.note = f"{self._lost} connections were too fast to be counted" if self._lost else ""
            self._lost = 0
        if self._is_first:  # what there was before has not been opened since
            self._is_first = False
            return [Row(row.name, row.active, 0, 0, 0, 0, row.dial_p50, row.dial_p99) for row in rows]
        return rows

    def _read(self) -> None:
        while True:
            try:
                for change in self._client.watch("decisions", **self._query):
                    self._ready.set()
                    if change["type"] != "SYNCED":
                        with self._lock:
                            self._traffic.decided(change["object"])
            except CutOffError as error:
                with self._lock:
                    self._lost += error.lost
            except AdminError as error:
                self._failure = error
                self._ready.set()
                return


SAMPLERS: Final[Mapping[str, type[Sampler]]] = {
    "services": ServiceSampler,
    "endpoints": EndpointSampler,
    "clients": ClientSampler,
}
"""By what ``userproxy top`` is asked for."""
