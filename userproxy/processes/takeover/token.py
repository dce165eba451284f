"""The one byte that says whose everything is: who reads it goes on."""

import os
import time
from typing import Final, Self

_OPEN, _TAKEN_BACK = b"\0", b"\1"
_MANY: Final = 64
"""Bytes that say that it was taken back: more than there are processes that read one and write none."""

_LOOK_EVERY: Final = 0.002


class Token:
    """A pipe with one byte in it. `reading` is what the successor gets; who also has `writing` may take it back.

    The predecessor's data processes may do so one after the other, if their control process has died: the first one
    leaves word for the others, and for the successor.
    """

    def __init__(self, reading: int, writing: int = -1) -> None:
        """Takes over the descriptors."""
        self.reading = reading
        self.writing = writing

    @classmethod
    def make(cls) -> Self:
        """A new one. Raises OSError."""
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.write(writing, _OPEN)
        return cls(reading, writing)

    def take(self) -> bool:
        """Whether all is the successor's, who asks, from now on."""
        return self._read() == _OPEN

    def take_back(self, patience: float = 0.0) -> bool:
        """Whether all is the predecessor's again. Another of its processes has `patience` seconds to leave word."""
        end = time.monotonic() + patience
        while not (found := self._read()) and time.monotonic() < end:
            time.sleep(_LOOK_EVERY)
        if found:
            os.write(self.writing, _TAKEN_BACK * (_MANY if found == _OPEN else 1))
        return bool(found)

    def close(self) -> None:
        """Close both ends."""
        os.close(self.reading)
        if self.writing >= 0:
            os.close(self.writing)

    def _read(self) -> bytes:
        try:
            return os.read(self.reading, 1)
        except BlockingIOError:
            return b""
