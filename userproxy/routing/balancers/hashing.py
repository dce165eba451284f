"""Hashes that are the same on every node and in every process: Python's own are salted."""

from hashlib import blake2b
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
