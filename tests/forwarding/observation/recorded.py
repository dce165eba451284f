"""What a capture tells while traffic passes: as events, as a pcapng file, and what tshark makes of that."""

import subprocess
from asyncio import Task, TaskGroup
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.forwarding.conftest import Bench, eventually
from userproxy.admin.pcapng import Recording
from userproxy.demo.tools import require_tool, tool_environment
from userproxy.forwarding.observation.capture import CaptureReader
from userproxy.model.capture import CAPTURE_ROOM, CaptureEvent, CaptureRequest, Ended, Leg, Opened, Segment, SegmentKind

COMPLAINTS = "_ws.malformed || tcp.analysis.flags || tcp.checksum.status == 0 || ip.checksum.status == 0"
"""What tshark would find wrong with packets: what is malformed, or lost, sent again or out of order."""


class Recorded:
    """What has been told so far."""

    def __init__(self) -> None:
        self.events: list[CaptureEvent] = []
        self.lost = 0

    @property
    def opened(self) -> list[Opened]:
        return [event for event in self.events if isinstance(event, Opened)]

    @property
    def ended(self) -> list[Ended]:
        return [event for event in self.events if isinstance(event, Ended)]

    def data(self, leg: Leg, *, up: bool, connection: int | None = None) -> bytes:
        """What has passed on the legs of all connections, or one, in one direction."""
        return b"".join(
            event.data
            for event in self.events
            if isinstance(event, Segment)
            and (event.leg, event.up) == (leg, up)
            and connection in (None, event.connection)
        )

    def marks(self) -> list[tuple[Leg, bool, SegmentKind]]:
        """All FIN and RST."""
        segments = [event for event in self.events if isinstance(event, Segment) and event.kind is not SegmentKind.DATA]
        return [(event.leg, event.up, event.kind) for event in segments]

    async def ends(self, count: int = 1) -> None:
        """Wait for the ends of so many connections."""
        await eventually(lambda: len(self.ended) >= count)

    def file(self) -> bytes:
        """The pcapng file of it."""
        recording = Recording()
        return recording.begin() + b"".join(map(recording.add, self.events))

    async def read(self, reader: CaptureReader) -> None:
        """Have the events of a reader, until it is cut off."""
        while not self.lost:
            batch = await reader.read()
            self.events += batch.items
            self.lost = batch.lost


@asynccontextmanager
async def recorded(
    bench: Bench, request: CaptureRequest | None = None, room: int = CAPTURE_ROOM
) -> AsyncIterator[Recorded]:
    """What is told while the context lasts."""
    found = Recorded()
    async with bench.forwarder.data_plane.capture(request or CaptureRequest(), room) as reader, TaskGroup() as group:
        task: Task[None] = group.create_task(found.read(reader))
        try:
            yield found
        finally:
            task.cancel()


def tshark(file: Path, *arguments: str) -> str:
    """What tshark says of a capture."""
    require_tool("tshark")
    command = ["tshark", "-r", str(file), "-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=tool_environment(), timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def complaints(file: Path) -> str:
    """The packets that tshark finds something wrong with."""
    return tshark(file, "-Y", COMPLAINTS)


def followed(file: Path, stream: int) -> tuple[bytes, bytes]:
    """What either side has sent in a TCP stream, as tshark puts it together: first whoever began."""
    lines = tshark(file, "-q", "-z", f"follow,tcp,raw,{stream}").splitlines()
    body = lines[lines.index(next(line for line in lines if line.startswith("Node 1:"))) + 1 : -1]
    sides = [
        bytes.fromhex("".join(line.strip() for line in body if line.startswith("\t") is down)) for down in (False, True)
    ]
    return sides[0], sides[1]
