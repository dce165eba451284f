"""Hashes that are the same on every node and in every process: Python's own are salted."""

from collections.abc import Sequence
from hashlib import blake2b
from struct import Struct
from typing import Final

_MASK: Final = (1 << 64) - 1


def hash64(text: str, person: bytes = b"") -> int:
    """A text as a number of 64 bits. `person` tells hashes of the same text apart."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8, person=person).digest(), "big")


def mixed(number: int) -> int:
    """Another number of 64 bits, in which each bit depends on all bits of `number`: MurmurHash3's fmix64."""
    number = (number ^ (number >> 33)) * 0xFF51AFD7ED558CCD & _MASK
    number = (number ^ (number >> 33)) * 0xC4CEB9FE1A85EC53 & _MASK
    return number ^ (number >> 33)


class MixedLanes:
    """What :func:`mixed` makes of many numbers and one other, all at once: some 0.08 us each in place of 0.35.

    The numbers lie side by side in a single integer, 128 bits for each, so that no product reaches the next one.
    """

    __slots__ = ("_bytes", "_lanes", "_low", "_numbers", "_ones")

    def __init__(self, numbers: Sequence[int]) -> None:
        self._bytes = 16 * len(numbers)
        self._lanes = Struct("<" + "Q8x" * len(numbers))
        self._numbers = int.from_bytes(b"".join(number.to_bytes(16, "little") for number in numbers), "little")
        self._ones = int.from_bytes((1).to_bytes(16, "little") * len(numbers), "little")
        self._low = self._ones * _MASK

    def mixed(self, key: int) -> tuple[int, ...]:
        """``mixed(key ^ number)`` of each."""
        low, upper = self._low, self._ones * (_MASK >> 33)
        numbers = self._numbers ^ (self._ones * key)
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            numbers = ((numbers ^ (numbers >> 33 & upper)) * factor) & low
        numbers ^= numbers >> 33 & upper
        return self._lanes.unpack(numbers.to_bytes(self._bytes, "little"))
