"""What the tests of the API source share: quick times, a running source, waiting for a condition."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from userproxy.cluster.api_source import ApiSource
from userproxy.cluster.backoff import BackoffFigures
from userproxy.cluster.client import ApiClient, open_client
from userproxy.cluster.credentials import ApiAccess
from userproxy.cluster.store import Store
from userproxy.cluster.watch import Timing
from userproxy.cluster.watch_stream import WatchLimits
from userproxy.model import IPFamily, ServiceName, ServiceState

QUICK = Timing(BackoffFigures(first=0.01, longest=0.05), WatchLimits(idle_timeout=30.0))


class Following:
    """A source that follows a server, and what it has told."""

    def __init__(self, client: ApiClient, store: Store, proxy_name: str | None, timing: Timing) -> None:
        self.store = store
        self.changes = store.subscribe(IPFamily.IPV4)
        self.calls = 0
        self.state: dict[ServiceName, ServiceState] = {}
        self.touched: list[ServiceName] = []
        self.source = ApiSource(client, store, self._changed, "worker-1", proxy_name, timing)

    def _changed(self) -> None:
        self.calls += 1
        for name, state in self.changes.take_changes().items():
            self.touched.append(name)
            if state is None:
                del self.state[name]
            else:
                self.state[name] = state

    def names(self) -> list[str]:
        return sorted(str(name) for name in self.state)


@asynccontextmanager
async def following(url: str, *, proxy_name: str | None = None, timing: Timing = QUICK) -> AsyncIterator[Following]:
    """A source that follows the server at `url`."""
    async with _following(ApiAccess(master=url), proxy_name, timing) as followed:
        yield followed


@asynccontextmanager
async def following_file(kubeconfig: Path) -> AsyncIterator[Following]:
    """A source that follows the server of a kubeconfig."""
    async with _following(ApiAccess(kubeconfig=kubeconfig), None, QUICK) as followed:
        yield followed


@asynccontextmanager
async def _following(access: ApiAccess, proxy_name: str | None, timing: Timing) -> AsyncIterator[Following]:
    client = await open_client(access)
    store = Store()
    try:
        followed = Following(client, store, proxy_name, timing)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(followed.source.run(), name="source")
            try:
                yield followed
            finally:
                task.cancel()
    finally:
        await client.close()


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for a condition; fails when it does not come true in time."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def addresses(followed: Following, name: str) -> list[str]:
    state = followed.state.get(ServiceName("shop", name))
    return sorted(e.address for part in (state.slices if state else ()) for e in part.endpoints)
