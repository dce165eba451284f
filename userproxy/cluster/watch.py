"""The Kubernetes API as the source of truth.

An onion of shells, each with its own kinds of failure::

    ApiSource       all resources; says when there is something to serve
    _Follower       one resource for ever: list, watch, list again when the server forgot where we were
    _persist        one try after the other, with pauses; failures told once an episode
    fetch, watch    one list (streamed where the server can, else in pages), one watch request
    ApiClient       one request; credentials

While the API is away the last state serves on. A new list is compared with what is there: it never flushes.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from random import Random
from typing import Final, TypeVar

import structlog
from msgspec import Struct

from userproxy.cluster.api_errors import (
    ApiError,
    ExpiredError,
    NoConnectionError,
    RefusedError,
    SilentError,
    Troubles,
    UnreachableError,
)
from userproxy.cluster.client import ApiClient
from userproxy.cluster.listing import ANY_VERSION, LATEST_VERSION, Listing, confirm, fetch, fetch_streamed
from userproxy.cluster.objects.keys import ClusterObject, ObjectKey, object_key
from userproxy.cluster.objects.reader import ObjectReader, Reading
from userproxy.cluster.objects.resources import Resource
from userproxy.cluster.store import Store
from userproxy.cluster.watch_stream import CHANGES, Event, WatchLimits, watch
from userproxy.model import Node
from userproxy.pace import Pace

log = structlog.get_logger()

T = TypeVar("T")

_EARLY: Final = 5.0
"""A watch that ends by so much sooner than asked for did not end because its time was over. Seconds."""
_SHORT: Final = 1.0
"""A watch that ends sooner, without an event, has failed. Seconds."""

_NOT_ABOUT_STREAMS: Final = (401, 429)
"""A list in pages would be refused, too."""
_STREAM_AGAIN: Final = 600.0
"""How long a server that would not stream a list is not asked again: it may be another one by then. Seconds."""


class BackoffFigures(Struct, frozen=True):
    """All in seconds, but `factor`. `longest_asked` limits what a server may ask for by Retry-After."""

    first: float = 0.8
    factor: float = 2.0
    longest: float = 30.0
    quiet: float = 120.0
    longest_asked: float = 120.0


class Backoff:
    """The pauses between tries of one thing."""

    def __init__(self, figures: BackoffFigures, random: Random) -> None:
        self._figures = figures
        self._random = random
        self._step = figures.first
        self._resumed = float("-inf")

    def pause(self, now: float, retry_after: float | None = None) -> float:
        """Seconds to wait after a failure at `now` (any clock that only goes forward), before the next try.

        It is never shorter than `retry_after`, what the server asked for, within reason. The random part keeps
        the nodes of a cluster from coming back all at once.
        """
        figures = self._figures
        if now - self._resumed >= figures.quiet:
            self._step = figures.first
        seconds = self._step * (1 + self._random.random())
        self._step = min(self._step * figures.factor, figures.longest)
        if retry_after is not None:
            seconds = max(seconds, min(retry_after, figures.longest_asked))
        self._resumed = now + seconds
        return seconds


class Timing(Struct, frozen=True):
    """The times that decide how the API is followed."""

    backoff: BackoffFigures = BackoffFigures()
    watch: WatchLimits = WatchLimits()


class Reflector:
    """Keeps the objects of one resource in the Store up to date."""

    def __init__(
        self,
        client: ApiClient,
        resource: Resource,
        store: Store,
        on_change: Callable[[], None],
        troubles: Troubles,
        timing: Timing,
    ) -> None:
        self.resource = resource
        self.listed = False
        self._client = client
        self._store = store
        self._on_change = on_change
        self._troubles = troubles
        self._limits = timing.watch
        self._reader = ObjectReader(resource)
        self._random = Random()  # noqa: S311 -- spreads load, keeps no secret
        self._backoff = Backoff(timing.backoff, self._random)
        self._version = ANY_VERSION
        self._stream_from = float("-inf")
        self._in_doubt = False
        """Whether the server may be another one, or restored from a backup, and not know our version."""

    @property
    def problems(self) -> tuple[str, ...]:
        return self._reader.problems

    async def run(self) -> None:
        """List, watch for as long as the server remembers where we were, and list again."""
        while True:
            try:
                await self._persist(self._list)
                while True:
                    await self._persist(self._watch)
            except ExpiredError as error:
                log.debug("Listing again", v=1, resource=self.resource.plural, reason=str(error))
                await self._pause(error)

    async def _persist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try until it succeeds. Raises ExpiredError, against which trying the same again does not help."""
        while True:
            try:
                return await attempt()
            except ExpiredError:
                raise
            except ApiError as error:
                self._in_doubt = self._in_doubt or isinstance(error, UnreachableError)
                self._note(self.resource.plural, error)
                await self._pause(error)

    def _note(self, topic: str, error: ApiError) -> None:
        self._troubles.note(topic, str(error), "the last state" if self.listed else "nothing of it yet")

    async def _pause(self, error: ApiError) -> None:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(self._backoff.pause(clock(), error.retry_after))

    async def _list(self) -> None:
        try:
            listing = await self._fetch()
        except ExpiredError:  # even the latest list expired between two of its pages
            self._version = LATEST_VERSION
            raise
        self._troubles.clear(self.resource.plural)
        count = await self._take_over(listing.readings)
        self._version = listing.version
        self._in_doubt = False
        self.listed = True
        log.debug("Listed", v=2, resource=self.resource.plural, objects=count, version=listing.version)
        self._on_change()

    async def _fetch(self) -> Listing:
        """All objects: streamed, and where that fails in pages, whatever the reason, as client-go does.

        A server may offer streamed lists and have a storage behind it that cannot give them, because it does not tell
        its progress (Debian's etcd 3.4, for one): it accepts, and sends an error of code 500.
        """
        clock = asyncio.get_running_loop().time
        if clock() >= self._stream_from:
            try:
                return await fetch_streamed(
                    self._client, self.resource, self._reader, self._version, self._limits.initial_silence
                )
            except NoConnectionError:
                raise
            except (RefusedError, SilentError) as error:
                if isinstance(error, RefusedError) and error.status in _NOT_ABOUT_STREAMS:
                    raise
                self._stream_from = clock() + _STREAM_AGAIN
                reason = str(error)
            except (ExpiredError, UnreachableError) as error:
                reason = str(error)
            log.debug("Listing in pages", v=2, resource=self.resource.plural, reason=reason)
        return await fetch(self._client, self.resource, self._reader, self._version)

    async def _take_over(self, readings: list[Reading]) -> int:
        """Make what was listed all objects of its kind, and return how many they are. Of a bad one the last good stays.

        Comparing them takes slices, since nobody else touches objects of this kind meanwhile. What differs is taken
        over at once, so that an endpoint that has moved from one slice to another is never missed; only before the
        first list has come nobody looks.
        """
        pace = Pace()
        listed: set[ObjectKey] = set()
        wanted: set[ObjectKey] = set()
        changed: list[ClusterObject] = []
        readings.reverse()
        while readings:  # which lets go of each in its turn
            reading = readings.pop()
            listed |= set() if reading.key is None else {reading.key}
            item = reading.item if reading.good or reading.key is None else self._store.get(reading.key)
            if item is not None:
                wanted.add(key := object_key(item))
                if item != self._store.get(key):
                    changed.append(item)
            await pace.keep()
        gone: list[ObjectKey] = []
        for key in self._store.keys(self.resource.kind):
            gone += [] if key in wanted else [key]
            await pace.keep()
        self._reader.forget_others(listed)
        for key in gone:
            self._store.delete(key)
        for item in changed:
            self._store.upsert(item)
            if not self.listed:
                await pace.keep()
        return len(wanted)

    async def _watch(self) -> None:
        """One watch. That it fell silent is no failure: the next one shows whether the server is there.

        A server that was restored from a backup accepts a watch from a version that it has not reached again, and
        tells nothing until then. So in doubt it is asked first whether it knows our version.
        """
        clock = asyncio.get_running_loop().time
        if self._in_doubt:
            await confirm(self._client, self.resource, self._version)
            self._in_doubt = False
        started, heard = clock(), False
        seconds = self._random.uniform(self._limits.shortest, self._limits.longest)
        try:
            stream = watch(self._client, self.resource, self._version, seconds, self._limits.silence)
            async with aclosing(stream) as batches:
                async for events in batches:
                    self._troubles.clear(self.resource.plural)
                    heard = heard or bool(events)
                    await self._apply_all(events)
        except SilentError as error:
            log.debug("Watching anew", v=2, resource=self.resource.plural, reason=str(error))
        # One that ends before its time may end because the server does, and another one take its place.
        self._in_doubt = clock() - started < seconds - _EARLY
        topic = f"watch of {self.resource.plural}"
        if heard or clock() - started >= _SHORT:
            self._troubles.clear(topic)
            return
        short = UnreachableError(f"The API server {self._client.shown} ends watches as soon as they begin")
        self._note(topic, short)
        await self._pause(short)

    async def _apply_all(self, events: list[Event]) -> None:
        pace = Pace()
        for event in events:
            self._apply(event)
            if pace.is_over:
                self._on_change()
                await pace.keep()
        self._on_change()

    def _apply(self, event: Event) -> None:
        """An event's version counts however bad its object: else a bad one would come again at each reconnect."""
        self._version = event.version or self._version
        if event.type not in CHANGES:
            return
        kind = self.resource.kind.__name__
        if event.type == "DELETED":
            key = ObjectKey(kind, "" if self.resource.kind is Node else event.namespace or "default", event.name)
            self._store.delete(key)
            self._reader.forget(key)
        else:
            reading = self._reader.read(event.data)
            if reading.item is not None:
                self._store.upsert(reading.item)
            elif reading.good and reading.key is not None:
                self._store.delete(reading.key)
        log.debug("Delivered", v=4, change=event.type, kind=kind, namespace=event.namespace, name=event.name)
