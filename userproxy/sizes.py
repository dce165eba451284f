"""Sizes (``64KB``, ``1.5MiB``) and rates (``1MB/s``), as faults write them: K is 1000, Ki is 1024."""

import re
from typing import Final

_UNITS: Final = {
    "": 1,
    "k": 1000,
    "m": 1000**2,
    "g": 1000**3,
    "ki": 1024,
    "mi": 1024**2,
    "gi": 1024**3,
}
_LARGEST_FIRST: Final = (
    ("GiB", 1024**3),
    ("GB", 1000**3),
    ("MiB", 1024**2),
    ("MB", 1000**2),
    ("KiB", 1024),
    ("KB", 1000),
)
_SIZE: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([kmg]i?)?b?", re.ASCII | re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes in a size. Raises ValueError, whose text names the value."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a size such as 500B, 64KB or 1.5MiB")
    return round(float(found[1]) * _UNITS[(found[2] or "").lower()])


def parse_rate(text: str) -> int:
    """Bytes a second in a rate. Raises ValueError, whose text names the value."""
    try:
        if not text.endswith("/s"):
            raise ValueError
        return parse_size(text.removesuffix("/s"))
    except ValueError:
        raise ValueError(f"{text!r} is not a rate such as 64KB/s or 1MB/s") from None


def format_size(size: int) -> str:
    """The shortest size that means just so many bytes: ``64KB``, ``64KiB``, ``1001B``."""
    for unit, factor in _LARGEST_FIRST:
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}B"


def format_rate(size: int) -> str:
    """As :func:`format_size`, a second."""
    return f"{format_size(size)}/s"
