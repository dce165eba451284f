"""Types of flags: how the text of each becomes a value. Parsers raise ValueError with a clause that names the text."""

import math
import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from msgspec import Struct

from userproxy.addresses import HIGHEST_PORT, parse_network
from userproxy.config.file import LARGEST_INT, check_duration
from userproxy.config.kubeproxy import VModule
from userproxy.durations import parse_duration
from userproxy.portals.return_path.marks import parse_mark
from userproxy.routing.reserved_ports import parse_reserved_ports

# What Kubernetes takes for one (k8s.io/apimachinery, validation.IsValidLabelValue).
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
# Python's own float() also takes the digits of other scripts, underscores and blanks.
_REAL = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,3})?")
_TRUE = {"1", "t", "T", "true", "TRUE", "True"}
_FALSE = {"0", "f", "F", "false", "FALSE", "False"}


MOST_WORKERS = 64
"""A place for more is nowhere to be had, and each holds a descriptor of every listener."""


class FlagType(Struct, frozen=True):
    """How one type of flag is read and shown. `parse` gets the text, or all texts of a flag that is repeatable."""

    metavar: str
    parse: Callable[[Any], Any]
    is_switch: bool = False
    is_repeatable: bool = False


def _switch(text: str) -> bool:
    if text not in _TRUE | _FALSE:
        raise ValueError(f"{text!r} is not true or false")
    return text in _TRUE


def _number(text: str) -> int:
    if not re.fullmatch(r"[-+]?[0-9]{1,12}", text):
        raise ValueError(f"{text!r} is not a whole number")
    if abs(int(text)) > LARGEST_INT:
        raise ValueError(f"{text} is too large")
    return int(text)


def _count(text: str) -> int:
    value = _number(text)
    if value < 0:
        raise ValueError(f"{text} is negative")
    return value


def _workers(text: str) -> int | None:
    if text == "auto":
        return None
    if not re.fullmatch(r"[0-9]{1,2}", text) or int(text) > MOST_WORKERS:
        raise ValueError(f"{text!r} is not auto or a number from 0 to {MOST_WORKERS}")
    return int(text)


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > HIGHEST_PORT:
        raise ValueError(f"{text!r} is not a port from 0 to {HIGHEST_PORT}")
    return int(text)


def _real(text: str) -> float:
    value = float(text) if _REAL.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a number")
    return value


def _list(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(item.strip() for text in texts for item in text.split(",") if item.strip())


def _networks(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(parse_network, _list(texts))))


def _gates(texts: Sequence[str]) -> dict[str, bool]:
    return {name: _switch(value) for name, value in _pairs(texts, "Gate=true")}


def _vmodule(texts: Sequence[str]) -> tuple[VModule, ...]:
    return tuple(VModule(file_pattern=name, verbosity=_number(value)) for name, value in _pairs(texts, "pattern=3"))


def _pairs(texts: Sequence[str], example: str) -> list[tuple[str, str]]:
    pairs = [item.partition("=") for item in _list(texts)]
    for name, sign, value in pairs:
        if not name or not sign:
            raise ValueError(f"{name + sign + value!r} is not a pair such as {example}")
    return [(name.strip(), value.strip()) for name, _, value in pairs]


def _paths(texts: Sequence[str]) -> tuple[Path, ...]:
    return tuple(map(Path, texts))


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _text_or_none(text: str) -> str | None:
    return text or None


def _label_value(text: str) -> str:
    if not text.strip():
        raise ValueError("an empty name selects no Service")
    if not _LABEL_VALUE.fullmatch(text):
        raise ValueError(f"{text!r} is not the value of a label, such as userproxy or proxy-2")
    return text


def choice(values: type[StrEnum]) -> FlagType:
    """One of the values of an enumeration."""

    def parse(text: str) -> StrEnum:
        try:
            return values(text)
        except ValueError:
            raise ValueError(f"{text!r} is not one of {', '.join(values)}") from None

    return FlagType("|".join(values), parse)


def seconds(*, zero: bool) -> FlagType:
    """A duration in seconds that is not negative, and greater than 0 unless `zero` is allowed."""

    def parse(text: str) -> float:
        value = parse_duration(check_duration(text))
        if value < 0:
            raise ValueError(f"{text} is negative")
        if value == 0 and not zero:
            raise ValueError(f"{text} is not greater than 0")
        return value

    return FlagType("DURATION", parse)


TEXT = FlagType("TEXT", str)
NAME = FlagType("TEXT", _text_or_none)
FILE = FlagType("FILE", _path)
ADDRESS = FlagType("IP[:PORT]", str)
DURATION = FlagType("DURATION", check_duration)
NUMBER = FlagType("N", _number)
COUNT = FlagType("N", _count)
WORKERS = FlagType("N|auto", _workers)
PORT = FlagType("PORT", _port)
PORTS = FlagType("PORTS", parse_reserved_ports)
REAL = FlagType("NUMBER", _real)
SWITCH = FlagType("true|false", _switch, is_switch=True)
LIST = FlagType("LIST", _list, is_repeatable=True)
NETWORKS = FlagType("CIDR,...", _networks, is_repeatable=True)
GATES = FlagType("GATE=BOOL,...", _gates, is_repeatable=True)
VMODULE = FlagType("PATTERN=N,...", _vmodule, is_repeatable=True)
PATHS = FlagType("PATH", _paths, is_repeatable=True)
LABEL = FlagType("NAME", _label_value)
MARK = FlagType("VALUE[/MASK]", parse_mark)
