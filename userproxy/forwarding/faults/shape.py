"""What all faults of one connection come to. Pure."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from msgspec import Struct, structs

from userproxy.model.faults import (
    Bandwidth,
    Blackhole,
    Direction,
    Drop,
    Fault,
    Latency,
    Refuse,
    ResetAfterBytes,
    ResetAfterSeconds,
)

Number = TypeVar("Number", int, float)


class Way(Struct, frozen=True, gc=False):
    """One direction. Latencies and jitters are added up, the lowest rate counts; `loss` is the part that is lost."""

    seconds: float = 0.0
    jitter: float = 0.0
    rate: int | None = None
    blocked: bool = False
    loss: float = 0.0


class Shape(Struct, frozen=True, gc=False):
    """What happens to a connection. `text` names the faults that do it."""

    up: Way = Way()
    down: Way = Way()
    refused: bool = False
    reset_bytes: int | None = None
    reset_seconds: float | None = None
    text: str = ""

    @property
    def is_lasting(self) -> bool:
        """Whether there is anything to do once the connection stands."""
        lasts = self.reset_bytes is not None or self.reset_seconds is not None
        return lasts or self.up != Way() or self.down != Way()


def shape_of(faults: Iterable[Fault]) -> Shape:
    """What these faults come to."""
    shape, texts = Shape(), []
    for fault in faults:
        shape = _with(shape, fault)
        texts.append(str(fault))
    return structs.replace(shape, text="; ".join(texts))


def _with(shape: Shape, fault: Fault) -> Shape:
    match fault.effect:
        case Latency(seconds, jitter, direction):
            return _both(shape, direction, lambda way: _later(way, seconds, jitter))
        case Bandwidth(rate):
            return _both(shape, Direction.BOTH, lambda way: structs.replace(way, rate=min(rate, way.rate or rate)))
        case Blackhole():
            return _both(shape, Direction.BOTH, lambda way: structs.replace(way, blocked=True, loss=1.0))
        case Drop(direction):
            part = fault.percent / 100
            return _both(shape, direction, lambda way: structs.replace(way, loss=1 - (1 - way.loss) * (1 - part)))
        case ResetAfterBytes(size):
            return structs.replace(shape, reset_bytes=_least(shape.reset_bytes, size))
        case ResetAfterSeconds(seconds):
            return structs.replace(shape, reset_seconds=_least(shape.reset_seconds, seconds))
        case Refuse():
            return structs.replace(shape, refused=True)


def _later(way: Way, seconds: float, jitter: float) -> Way:
    return structs.replace(way, seconds=way.seconds + seconds, jitter=way.jitter + jitter)


def _both(shape: Shape, direction: Direction, change: Callable[[Way], Way]) -> Shape:
    """The shape with the ways changed that a direction is."""
    up = shape.up if direction is Direction.DOWN else change(shape.up)
    down = shape.down if direction is Direction.UP else change(shape.down)
    return structs.replace(shape, up=up, down=down)


def _least(before: Number | None, now: Number) -> Number:
    return now if before is None else min(before, now)
