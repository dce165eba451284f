"""``/v1/capture``: the bytes of connections as they pass, as a pcapng file or as lines of JSON, without an end."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from typing import Final, Literal, TypeAlias

import msgspec
from aiohttp import web
from msgspec import Struct

from userproxy.admin.items import AttemptItem, CutOff
from userproxy.admin.parameters import CaptureForm, Filter
from userproxy.admin.pcapng import Recording
from userproxy.admin.rows import time_text
from userproxy.admin.streaming import LINES, TOO_SLOW, SlowReaderError, write_parts
from userproxy.model.capture import CaptureEvent, CaptureRequest, Ended, Leg, Opened, Segment, SegmentKind
from userproxy.model.cluster import Protocol
from userproxy.model.data_plane import DataPlane
from userproxy.model.reports import Outcome

PCAPNG: Final = "application/x-pcapng"
MOST_CAPTURES: Final = 4
"""At the same time: each may make what is not read yet wait, up to CAPTURE_ROOM."""

NOT_ALLOWED: Final = (
    "captures show what clients and Services say to each other, and this userproxy does not allow them:"
    " start it with --allow-capture"
)
TOO_MANY: Final = f"{MOST_CAPTURES} captures are running already: end one of them"


class CaptureBegun(Struct, frozen=True, gc=False, tag="CAPTURING"):
    """The first line: what begins from now on is captured."""


class CapturedConnection(Struct, frozen=True, gc=False, tag="OPENED"):
    """A connection or flow is captured from here on; a flow that moves to another endpoint has another such line.

    `node` is from where the endpoint was dialled; it is null, like `endpoint`, where none has accepted. `whole` is
    whether it is captured from its beginning on.
    """

    connection: int
    time: str
    service: str
    port: str
    protocol: Protocol
    client: str
    portal: str
    node: str | None
    endpoint: str | None
    whole: bool
    tried: tuple[AttemptItem, ...]


class CapturedBytes(Struct, frozen=True, gc=False, tag="PASSED"):
    """What has passed on one leg of a connection, from the client upwards or down to it.

    `size` is how many bytes it was. `data`, in base64, has less where more was not asked for, and nothing of a fin or
    rst.
    """

    connection: int
    time: str
    leg: Leg
    direction: Literal["up", "down"]
    kind: SegmentKind
    size: int
    data: bytes


class CapturedEnd(Struct, frozen=True, gc=False, tag="ENDED"):
    """A connection or flow has ended."""

    connection: int
    time: str
    verdict: Outcome
    reason: str
    duration_seconds: float
    bytes_up: int
    bytes_down: int


Events: TypeAlias = AsyncGenerator[tuple[CaptureEvent, ...], None]

Line: TypeAlias = CaptureBegun | CapturedConnection | CapturedBytes | CapturedEnd
"""A line of a capture as JSON, but for the last one where the reader was too slow."""


async def write_capture(
    request: web.BaseRequest, plane: DataPlane, asked: Filter, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Write a capture until it has what it is asked for, or its reader is too slow, or goes."""
    wanted = CaptureRequest(asked.query, asked.payload_bytes, asked.connections)
    events = _events(plane, wanted, asked.seconds)
    if asked.form is CaptureForm.PCAPNG:
        recording = Recording()

        def cut_off(lost: int) -> bytes:
            return recording.cut_off(time.time(), lost, TOO_SLOW)

        return await write_parts(request, PCAPNG, _recorded(recording, events), cut_off, headers)
    return await write_parts(request, LINES, _lines(events), _last_line, headers)


async def _events(plane: DataPlane, wanted: CaptureRequest, seconds: float | None) -> Events:
    """The events of a capture; first none, when it has begun."""
    loop = asyncio.get_running_loop()
    end = None if seconds is None else loop.time() + seconds
    ended = 0
    async with plane.capture(wanted) as watch:
        yield ()
        while (end is None or loop.time() < end) and (wanted.connections is None or ended < wanted.connections):
            try:
                async with asyncio.timeout_at(end):
                    batch = await watch.read()
            except TimeoutError:
                return
            yield batch.items
            if batch.lost:
                raise SlowReaderError(batch.lost)
            ended += sum(isinstance(event, Ended) for event in batch.items)


async def _recorded(recording: Recording, events: Events) -> AsyncGenerator[Iterable[bytes], None]:
    async with aclosing(events):
        await anext(events)
        yield (recording.begin(),)
        async for batch in events:
            yield map(recording.add, batch)


async def _lines(events: Events) -> AsyncGenerator[Iterable[bytes], None]:
    async with aclosing(events):
        await anext(events)
        yield (_encoded(CaptureBegun()),)
        async for batch in events:
            yield (_encoded(_line(event)) for event in batch)


def _encoded(line: Line | CutOff) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def _last_line(lost: int) -> bytes:
    return _encoded(CutOff(TOO_SLOW, lost))


def _line(event: CaptureEvent) -> Line:
    match event:
        case Opened():
            name = event.listener.service_port
            return CapturedConnection(
                connection=event.connection,
                time=time_text(event.connected),
                service=str(name.service),
                port=name.port,
                protocol=name.protocol,
                client=str(event.client),
                portal=str(event.portal),
                node=None if event.node is None else str(event.node),
                endpoint=None if event.endpoint is None else str(event.endpoint),
                whole=event.whole,
                tried=tuple(AttemptItem(str(each.endpoint), each.reason) for each in event.tried),
            )
        case Segment():
            direction: Literal["up", "down"] = "up" if event.up else "down"
            at = time_text(event.time)
            return CapturedBytes(event.connection, at, event.leg, direction, event.kind, event.size, event.data)
        case Ended():
            at = time_text(event.time)
            figures = event.duration_seconds, event.bytes_up, event.bytes_down
            return CapturedEnd(event.connection, at, event.verdict, event.reason, *figures)
