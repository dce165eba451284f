"""Looks at a running proxy's figures as long as somebody looks at the page: once for all tabs."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from userproxy.admin.client import AdminError
from userproxy.dashboard.feeds import NOT_SERVED, Feed
from userproxy.dashboard.figures.connection_rows import ConnectionRows
from userproxy.dashboard.figures.history import History
from userproxy.dashboard.figures.looks import Detail, Look, ServicePort, Want
from userproxy.dashboard.figures.paths import Paths
from userproxy.dashboard.figures.rates import Item, endpoint_key, service_key, with_rates
from userproxy.dashboard.successions import Successions
from userproxy.dashboard.upstream import Upstream

LOOK_SECONDS: Final = 1.0
_SHARE: Final = 10
"""Reading the figures takes at most one part in so many of the time, and so of the proxy's."""
_CONNECTIONS_SHARE: Final = 20
"""Reading connections, of which there may be many more than of anything else, takes at most one part in so many."""
_STEERED: Final = ("drains", "faults")
"""Lists of what was asked for, and the names by which a status says that it may be."""
_LINGER_SECONDS: Final = 60.0
"""How long figures are still looked at when the last tab has gone: a page that is loaded again goes on with them."""

_WRONG: Final = (None, False)
"""The name of the decisions about clients of any Service who were not simply served."""


class Reader:
    """A tab: what it wants, its decisions, and an event that is set once there is something new for it."""

    def __init__(self, want: Want, feed: Feed) -> None:
        self.want = want
        self.feed = feed
        self.woken = asyncio.Event()


class _Connections:
    """The connections of a service port, or all, and when they were last read, on the monotonic clock."""

    def __init__(self) -> None:
        self.rows = ConnectionRows()
        self.paths = Paths()
        self.known: dict[int, Item] = {}
        self.read_at = 0.0
        self.due = 0.0


class Collector:
    """Has the newest :class:`Look` in `look`, and what was before in `history`. Readers come while it runs."""

    def __init__(self, upstream: Upstream) -> None:
        self.look = Look()
        self.history = History()
        self._upstream = upstream
        self._successions = Successions()
        self._readers: set[Reader] = set()
        self._called = asyncio.Event()
        self._left = 0.0
        self._looked = 0.0
        self._connections: dict[ServicePort | None, _Connections] = {}
        self._feeds: dict[tuple[ServicePort | None, bool], tuple[Feed, asyncio.Task[None]]] = {}
        self._tasks: asyncio.TaskGroup | None = None

    @property
    def readers(self) -> int:
        """How many tabs are told of what is new."""
        return len(self._readers)

    async def run(self) -> None:
        """Look until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            while True:
                began = time.monotonic()
                if not self._readers and began - self._left > _LINGER_SECONDS:
                    await self._rest()
                    continue
                await self._publish()
                took = time.monotonic() - began
                self._called.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(LOOK_SECONDS - took, (_SHARE - 1) * took)):
                        await self._called.wait()

    def hurry(self) -> None:
        """Look at once: something was changed."""
        self._called.set()

    @contextmanager
    def reading(self, want: Want) -> Iterator[Reader]:
        """Be told of what `want` says until the end of the context. A look follows at once."""
        reader = Reader(want, self._feed(want))
        reader.feed.woken.add(reader.woken)
        self._readers.add(reader)
        self._called.set()
        try:
            yield reader
        finally:
            self._readers.discard(reader)
            reader.feed.woken.discard(reader.woken)
            self._left = time.monotonic()
            self._forget()

    def _feed(self, want: Want) -> Feed:
        """The decisions that a tab shows: all those of one service port, but not of all of them unless it says so."""
        name = want.subject, want.subject is not None or want.served
        if name not in self._feeds:
            if self._tasks is None:
                raise RuntimeError("nobody is told of anything before the collector runs")
            subject = want.subject
            if subject is not None:
                feed = Feed(self._upstream, subject.query, subject.has)
                feed.told.add(self._of(subject).paths.decided)
            else:
                query = {} if want.served else {"verdict": NOT_SERVED}
                feed = Feed(self._upstream, query, lambda _: True)
            self._feeds[name] = feed, self._tasks.create_task(feed.run(), name="read decisions")
        return self._feeds[name][0]

    def _of(self, subject: ServicePort | None) -> _Connections:
        return self._connections.setdefault(subject, _Connections())

    def _forget(self) -> None:
        """What nobody wants any more; what went wrong is remembered while anybody looks, longer than by the proxy."""
        for name, (feed, task) in tuple(self._feeds.items()):
            if not feed.woken and not (name == _WRONG and self._readers):
                task.cancel()
                del self._feeds[name]
        wanted = {reader.want.subject for reader in self._readers}
        for subject in self._connections.keys() - wanted:
            del self._connections[subject]

    async def _rest(self) -> None:
        """Until somebody looks at the page again. What was seen before is too old to go on with."""
        self.look = Look(number=self.look.number)
        self.history = History()
        self._called.clear()
        await self._called.wait()

    async def _publish(self) -> None:
        try:
            self.look = await self._looked_at()
        except AdminError as error:
            self._fail(str(error))
        except (LookupError, TypeError) as error:  # of a program that has our name and version
            self._fail(f"the proxy's answer is not what it should be ({type(error).__name__}: {error})")
        for reader in self._readers:
            reader.woken.set()

    def _fail(self, trouble: str) -> None:
        self._successions.failed(time.time())
        self.look = self.look._replace(number=self.look.number + 1, trouble=trouble)

    async def _looked_at(self) -> Look:
        before, wants = self.look, [reader.want for reader in self._readers]
        items, now = await self._upstream.items("services"), time.monotonic()
        seconds, self._looked = now - self._looked, now
        services = with_rates(items, before.services, seconds, service_key)
        self.history.add(services.values())
        subjects = {want.subject for want in wants if want.subject is not None}
        if any(want.connections and want.subject is None for want in wants):
            await self._read_connections(None)
        status = await self._upstream.get("status")
        self._successions.answered(status, time.time())
        steered = {name: await self._upstream.items(name) for name in _STEERED if name in status.get("controls", ())}
        details = {each: await self._detail(each, before.details.get(each), seconds) for each in subjects}
        return Look(
            number=before.number + 1,
            time=time.time(),
            seconds=seconds,
            services=services,
            status=status,
            problems=await self._upstream.items("problems"),
            drains=steered.get("drains", ()),
            faults=steered.get("faults", ()),
            successions=tuple(self._successions.found),
            details=details,
            connections={subject: each.known for subject, each in self._connections.items()},
        )

    async def _detail(self, subject: ServicePort, before: Detail | None, seconds: float) -> Detail:
        endpoints = [each for each in await self._upstream.items("endpoints", subject.query) if subject.has(each)]
        portals = [each for each in await self._upstream.items("portals", subject.query) if subject.has(each)]
        paths = await self._read_connections(subject)
        known = {} if before is None else before.endpoints
        earlier = () if before is None else before.paths
        rows = with_rates(endpoints, known, seconds, endpoint_key)
        return Detail(rows, portals, earlier if paths is None else paths)

    async def _read_connections(self, subject: ServicePort | None) -> list[Item] | None:
        """Read them and say by which paths they have come, unless it is too early to read so many of them again."""
        kept, began = self._of(subject), time.monotonic()
        if began < kept.due:
            return None
        found = await self._upstream.items("connections", {} if subject is None else subject.query)
        items = found if subject is None else [each for each in found if subject.has(each)]
        kept.known = dict(kept.rows.update(items, time.time()))
        now = time.monotonic()
        paths = kept.paths.rows(items, now - kept.read_at) if subject is not None else []
        kept.read_at, kept.due = now, now + (_CONNECTIONS_SHARE - 1) * (now - began)
        return paths
