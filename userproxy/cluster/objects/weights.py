"""The annotation ``userproxy.io/weights`` of an EndpointSlice: how much of new connections its endpoints get. Pure."""

import re
from collections.abc import Mapping
from typing import Final

from userproxy.cluster.objects.validation import parse_ip, show

WEIGHTS: Final = "userproxy.io/weights"
HIGHEST_WEIGHT: Final = 1000
MOST_ENTRIES: Final = 2000
"""Twice as many as a slice may have endpoints: each takes microseconds, in which nobody is served."""


_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_NUMBER: Final = re.compile(r"[0-9]{1,4}")
_NO_WEIGHTS: Final[Mapping[str, int]] = {}


def read_weights(name: str, value: object) -> tuple[Mapping[str, int], str]:
    """Weights by canonical address or by the name of a Pod, and a sentence where the annotation cannot be used.

    `name` is what the sentence begins with: kind, namespace and name of the object.
    It is a list such as ``10.0.0.1=3,web-2=0``. Whom it does not name has a weight of 1. One bad entry costs all: the
    shares of what is left would be nobody's. Never raises.
    """
    try:
        return _parsed(value), ""
    except ValueError as error:
        return _NO_WEIGHTS, f"{name}: annotation {WEIGHTS}: {error}"


def _parsed(value: object) -> Mapping[str, int]:
    form = f"ADDRESS=WEIGHT or POD=WEIGHT with a weight between 0 and {HIGHEST_WEIGHT}, several separated by commas"
    if not isinstance(value, str):
        raise ValueError(f"{show(value)} is not {form}")
    count = value.count(",") + 1
    if count > MOST_ENTRIES:
        raise ValueError(f"it has {count} entries, more than {MOST_ENTRIES}")
    weights: dict[str, int] = {}
    for entry in value.split(","):
        name, _, number = (part.strip() for part in entry.partition("="))
        key = _key(name)
        if key is None or not _NUMBER.fullmatch(number) or int(number) > HIGHEST_WEIGHT:
            raise ValueError(f"{show(entry.strip())} is not {form}")
        if key in weights:
            raise ValueError(f"{show(key)} is named twice")
        weights[key] = int(number)
    return weights


def _key(name: str) -> str | None:
    """An address in its canonical form, or the name of a Pod; None for what is neither."""
    key = canonical(name)
    return key if key != name or ":" in key or (len(key) <= 253 and _NAME.fullmatch(key)) else None


def canonical(text: str) -> str:
    """The canonical form of an address; anything else as it is."""
    try:
        return str(parse_ip(text))
    except ValueError:
        return text
