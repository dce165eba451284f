"""The mark that packets for transparent sockets bear (``--transparent-mark``), and who else uses marks.

Pure.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct

_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10}")
_HIGHEST: Final = 0xFFFFFFFF


class Mark(Struct, frozen=True, gc=False):
    """Some bits of a packet's mark (`mask`), and what they have to be."""

    value: int
    mask: int

    def __str__(self) -> str:
        return f"{self.value:#x}/{self.mask:#x}"


DEFAULT: Final = Mark(0x1000, 0x1000)
"""A bit that none of KNOWN has."""

KNOWN: Final = (
    ("kube-proxy and kubelet", Mark(0x4000, 0x4000)),
    ("kubelet", Mark(0x8000, 0x8000)),
    ("Calico", Mark(0xFFFF0000, 0xFFFF0000)),
    ("Cilium", Mark(0x0F00, 0x0F00)),
    ("the CNI plug-in portmap", Mark(0x2000, 0x2000)),
    ("the AWS VPC CNI", Mark(0x80, 0x80)),
)
"""Who uses which bits, as they come."""


def parse_mark(text: str) -> Mark:
    """``VALUE`` or ``VALUE/MASK``, decimal or hexadecimal; without a mask, the bits of the value are it.

    Raises ValueError.
    """
    value_text, slash, mask_text = text.strip().partition("/")
    value = _parsed(text, value_text)
    mask = _parsed(text, mask_text) if slash else value
    if not value:
        raise ValueError(f"{text!r} marks nothing: the value is to have at least one bit")
    if value & ~mask:
        raise ValueError(f"{text!r} has bits in its value that its mask has not")
    return Mark(value, mask)


def known_users(mark: Mark) -> Iterator[str]:
    """Who uses some of its bits by default."""
    return (name for name, theirs in KNOWN if theirs.mask & mark.mask)


def overlapping(mark: Mark, others: Iterable[Mark]) -> Iterator[Mark]:
    """Those of the `others` that have a bit of its mask."""
    return (other for other in others if other.mask & mark.mask)


def _parsed(text: str, number: str) -> int:
    if not _NUMBER.fullmatch(number):
        raise ValueError(f"{text!r} is no mark such as {DEFAULT} or {DEFAULT.value:#x}")
    value = int(number, 16 if number[:2] in ("0x", "0X") else 10)
    if value > _HIGHEST:
        raise ValueError(f"{text!r} has more than 32 bits")
    return value
