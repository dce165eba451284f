"""One resource of the API server followed for ever: list it, watch it, and list again where the server has forgotten
where the watch was. What client-go calls a reflector.

While the API server is away the last state stays. A new list is compared with what the Store has, so only what differs
changes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from random import Random
from typing import Final, TypeVar

import structlog
from msgspec import Struct

from userproxy.cluster.api_errors import (
    ApiError,
    ExpiredError,
    FailureLog,
    IdleTimeoutError,
    NoConnectionError,
    RefusedError,
    UnreachableError,
)
from userproxy.cluster.backoff import Backoff, BackoffFigures
from userproxy.cluster.client import ApiClient
from userproxy.cluster.known_lines import KnownLines
from userproxy.cluster.listing import ANY_VERSION, LATEST_VERSION, Listing, confirm_version, fetch_paged, fetch_streamed
from userproxy.cluster.objects.keys import ClusterObject, ObjectKey, key_of
from userproxy.cluster.objects.reader import ObjectReader, Reading
from userproxy.cluster.objects.resources import Resource
from userproxy.cluster.store import Store
from userproxy.cluster.watch_stream import CHANGES, Event, WatchLimits, read_event, watch
from userproxy.frequent_log import FrequentLog
from userproxy.model.sources import WatchReport
from userproxy.pace import Pace, emptied, uncollected

log = structlog.get_logger()

T = TypeVar("T")

_EARLY: Final = 5.0
"""A watch that ends this many seconds before its time was ended by something else: maybe the server stops."""
_SHORT: Final = 1.0
"""A watch that ends within this many seconds and without an event counts as failed."""

_NOT_ABOUT_STREAMS: Final = (401, 429)
"""HTTP statuses for which a list in pages would be refused, too."""
_STREAM_AGAIN: Final = 600.0
"""After a refused stream, lists come in pages for so many seconds. Later the server may be another one."""

_EXPIRED_OFTEN: Final = 5
"""A server that has started, or a replica that is behind, knows our version after fewer tries."""


class Timing(Struct, frozen=True):
    """The times that decide how the API is followed."""

    backoff: BackoffFigures = BackoffFigures()
    watch: WatchLimits = WatchLimits()


class Reflector:
    """Keeps the objects of one resource in the Store equal to what the API server has.

    `on_change` is called on the loop's thread whenever objects may have changed. Failures go to `failures`, which logs
    them. `listed` says whether the server has ever answered with a whole list.
    """

    def __init__(
        self,
        client: ApiClient,
        resource: Resource,
        store: Store,
        on_change: Callable[[], None],
        failures: FailureLog,
        timing: Timing,
    ) -> None:
        self.resource = resource
        self.listed = False
        self._client = client
        self._store = store
        self._on_change = on_change
        self._failures = failures
        self._limits = timing.watch
        self._reader = ObjectReader(resource)
        self._known = KnownLines[ClusterObject]()
        self._log = FrequentLog()
        self._kind = resource.kind.__name__
        self._random = Random()  # noqa: S311 -- spreads load, keeps no secret
        self._backoff = Backoff(timing.backoff, self._random)
        self._relisting = Backoff(timing.backoff, self._random)
        """Apart from failures: a server that asks for a new list answers, and every one does after its restart."""
        self._forbidden = False
        """Whether the last request was forbidden."""
        self._expired = 0
        """How often in a row the server did not know the version that it was asked for, since a watch last worked."""
        self._proof: asyncio.TimerHandle | None = None
        """Ends that count, once a watch has lasted."""
        self._version = ANY_VERSION
        self._stream_from = float("-inf")
        self._heard: float | None = None
        """When the server last said anything of it, on the loop's clock."""
        self._must_confirm = False
        """Whether the server may be another one, or restored from a backup, and so may not know our version."""

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence for each thing that is wrong with the objects of this resource now."""
        return self._reader.problems

    def report(self, now: float) -> WatchReport:
        """How current it is at `now`, on the loop's clock."""
        plural = self.resource.plural
        age = None if self._heard is None else now - self._heard
        reason = self._failures.current(plural, _watch_of(plural), _versions_of(plural))
        return WatchReport(plural, self.listed, age, reason)

    async def run(self) -> None:
        """List, then watch for as long as the server knows our version, then list again; until cancelled."""
        while True:
            try:
                await self._retry(self._list)
                while True:
                    await self._retry(self._watch)
            except ExpiredError as error:
                log.debug("Listing again", v=1, resource=self.resource.plural, reason=str(error))
                self._version_unknown()
                await self._pause(error, self._relisting)

    async def _retry(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of `attempt`, tried with pauses until it succeeds.

        Raises ExpiredError, after which only a new list helps.
        """
        while True:
            try:
                result = await attempt()
            except ExpiredError:
                raise
            except ApiError as error:
                self._must_confirm = self._must_confirm or isinstance(error, UnreachableError)
                if not self._may_only_start(error):
                    self._log_failure(self.resource.plural, error)
                await self._pause(error, self._backoff)
            else:
                self._forbidden = False
                return result

    def _log_failure(self, topic: str, error: ApiError) -> None:
        self._failures.failed(topic, str(error), "the last state" if self.listed else "nothing of it yet")

    def _version_unknown(self) -> None:
        """Count it. To list again is nothing that people should know of, unless that does not help either."""
        if self._proof is not None:
            self._proof.cancel()
            self._proof = None
        self._expired += 1
        if self._expired >= _EXPIRED_OFTEN:
            server, plural = self._client.redacted_server, self.resource.plural
            sentence = f"The API server {server} does not know the version of {plural} that it is asked for (410 Gone)"
            often = ExpiredError(f"{sentence}: at least {_EXPIRED_OFTEN} times in a row")
            self._log_failure(_versions_of(plural), often)

    def _watch_accepted(self) -> None:
        """A server that does not know our version says so at once, be it in a watch that it has accepted."""
        if self._expired and self._proof is None:
            self._proof = asyncio.get_running_loop().call_later(_SHORT, self._version_known)

    def _version_known(self) -> None:
        self._proof = None
        self._expired = 0
        self._failures.succeeded(_versions_of(self.resource.plural))

    def _may_only_start(self, error: ApiError) -> bool:
        """Whether what was allowed before is forbidden for the first time: a server that starts knows no rules yet."""
        forbidden = isinstance(error, RefusedError) and error.status == 403
        first = forbidden and self.listed and not self._forbidden
        self._forbidden = forbidden
        return first

    async def _pause(self, error: ApiError, backoff: Backoff) -> None:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(backoff.pause(clock(), error.retry_after))

    async def _list(self) -> None:
        with uncollected():
            try:
                listing = await self._fetch()
            except ExpiredError:  # even the latest list expired between two of its pages
                self._version = LATEST_VERSION
                raise
            self._failures.succeeded(self.resource.plural)
            count = await self._replace_all(listing.readings)
        self._version = listing.version
        self._must_confirm = False
        self.listed = True
        self._heard = asyncio.get_running_loop().time()
        log.debug("Listed", v=2, resource=self.resource.plural, objects=count, version=listing.version)
        self._on_change()

    async def _fetch(self) -> Listing:
        """All objects: streamed, or in pages where that fails for whatever reason, as client-go does it.

        A server may offer streamed lists and fail to give them: its etcd must report progress, and Debian's etcd 3.4
        does not. Then the server accepts the request and sends an error of code 500. What refuses pages as well, such
        as a server that starts and does not know its RBAC rules yet, says nothing about streams.
        """
        clock = asyncio.get_running_loop().time
        refused = False
        if clock() >= self._stream_from:
            try:
                return await fetch_streamed(
                    self._client,
                    self.resource,
                    self._reader,
                    self._known,
                    self._version,
                    self._limits.initial_idle_timeout,
                )
            except NoConnectionError:
                raise
            except (RefusedError, IdleTimeoutError) as error:
                if isinstance(error, RefusedError) and error.status in _NOT_ABOUT_STREAMS:
                    raise
                refused, reason = True, str(error)
            except (ExpiredError, UnreachableError) as error:
                reason = str(error)
            log.debug("Listing in pages", v=2, resource=self.resource.plural, reason=reason)
        listing = await fetch_paged(self._client, self.resource, self._reader, self._version)
        if refused:
            self._stream_from = clock() + _STREAM_AGAIN
        return listing

    async def _replace_all(self, readings: dict[ObjectKey | None, Reading]) -> int:
        """Make the Store's objects of this kind those that were listed, and return how many they are.

        Where a listed object cannot be read, its last good version stays. The comparison is done in slices of time,
        since nobody else changes objects of this kind meanwhile. What differs is then stored in one go, so that an
        endpoint that has moved from one EndpointSlice to another is never missing. That is not needed for the first
        list, before which nothing is served.
        """
        pace = Pace()
        changed, gone = await self._compare(readings)
        self._reader.forget_others({key for key in self._reader.complained_of if key is not None and key in readings})
        for key in gone:
            self._store.delete(key)
        for item in changed:
            self._store.upsert(item)
            if not self.listed:
                await pace.keep()
        await emptied(readings)
        return self._store.count(self.resource.kind)

    async def _compare(
        self, readings: Mapping[ObjectKey | None, Reading]
    ) -> tuple[list[ClusterObject], list[ObjectKey]]:
        """The listed objects that the Store has not, or not as they are, and the keys of those that are not listed."""
        pace, store, there = Pace(), self._store, 0
        changed: list[ClusterObject] = []
        gone: list[ObjectKey] = []
        for key, reading in readings.items():
            if key is None:
                continue
            if (stored := store.get(key)) is not None:
                there += 1
            item = reading.item
            if item is not None:
                if item is not stored and item != stored:
                    changed.append(item)
            elif reading.good and stored is not None:
                gone.append(key)
            await pace.keep()
        if there < store.count(self.resource.kind):
            for key in store.keys(self.resource.kind):
                if key not in readings:
                    gone.append(key)
                await pace.keep()
        return changed, gone

    async def _watch(self) -> None:
        """One watch request, to its end.

        A watch that is idle for too long is ended and is not logged as a failure: the next one shows whether the server
        is there. A server that was restored from a backup accepts a watch from a version that it has not reached yet,
        and sends nothing until it has. So where that may have happened, it is asked first whether it knows our version.
        """
        clock = asyncio.get_running_loop().time
        if self._must_confirm:
            await confirm_version(self._client, self.resource, self._version)
            self._must_confirm = False
        started = clock()
        had_events = False

        def at_once(events: list[Event]) -> None:
            nonlocal had_events
            had_events = True
            self._heard = clock()
            for event in events:
                self._apply(event)
            self._on_change()

        seconds = self._random.uniform(self._limits.shortest, self._limits.longest)
        try:
            stream = watch(self._client, self.resource, self._version, seconds, self._limits.idle_timeout, at_once)
            async with aclosing(stream) as batches:
                async for events in batches:
                    self._heard = clock()
                    self._failures.succeeded(self.resource.plural)
                    self._watch_accepted()
                    had_events = had_events or bool(events)
                    await self._apply_all(events)
        except IdleTimeoutError as error:
            log.debug("Watching anew", v=2, resource=self.resource.plural, reason=str(error))
        # A watch that ends before its time may end because the server stops, and another may take its place.
        self._must_confirm = clock() - started < seconds - _EARLY
        topic = _watch_of(self.resource.plural)
        if had_events or clock() - started >= _SHORT:
            self._failures.succeeded(topic)
            return
        short = UnreachableError(f"The API server {self._client.redacted_server} ends watches as soon as they begin")
        self._log_failure(topic, short)
        await self._pause(short, self._backoff)

    async def _apply_all(self, events: list[Event]) -> None:
        pace = Pace()
        for event in events:
            self._apply(event)
            if pace.is_over:
                self._on_change()
                await pace.keep()
        self._on_change()

    def _apply(self, event: Event) -> None:
        """Store what an event says.

        Its version counts even where its object is bad: else the event would come again at each watch.
        """
        self._version = event.version or self._version
        if event.type not in CHANGES:
            return
        if event.type == "DELETED":
            key = key_of(self.resource.kind, event.namespace, event.name)
            self._store.delete(key)
            self._reader.forget(key)
        else:
            reading = read_event(self._reader, event)
            if reading.item is not None:
                self._store.upsert(reading.item, reading.key)
            elif reading.good and reading.key is not None:
                self._store.delete(reading.key)
        if self._log.shows_debug:
            event_of = {"kind": self._kind, "namespace": event.namespace, "name": event.name}
            self._log.debug("Delivered", v=4, change=event.type, **event_of)


def _watch_of(plural: str) -> str:
    """The topic of failures that are about watching a resource, not about listing it."""
    return f"watch of {plural}"


def _versions_of(plural: str) -> str:
    """The topic of failures that are about what versions of a resource the server knows."""
    return f"versions of {plural}"
