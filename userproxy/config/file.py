"""The configuration file: reading and writing its YAML.

A file that is read gives values by path, and every wrong or unknown field: nothing raises at the first mistake, so that
a person sees all of them at once.
"""

import math
import re
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, structs

from userproxy.config.kubeproxy import (
    API_VERSION,
    KIND,
    Duration,
    KubeProxyConfiguration,
    Quantity,
    leaves,
    plain,
    replaced,
)
from userproxy.durations import format_duration, parse_duration
from userproxy.errors import UsageError

ZERO_COUNTS = frozenset(
    {
        "iptables.masqueradeBit",
        "iptables.localhostNodePorts",
        "nftables.masqueradeBit",
        "oomScoreAdj",
        "conntrack.maxPerCore",
        "conntrack.min",
        "conntrack.tcpEstablishedTimeout",
        "conntrack.tcpCloseWaitTimeout",
    }
)
"""Fields that are pointers in kube-proxy, so that zero is a value. Elsewhere zero means "the default"."""

LARGEST_INT = 2**31 - 1
_LONGEST = (2**63 - 1) / 1e9
"""Limits of Go's int32, and of its durations in seconds."""

_GO_INTEGER = re.compile(r"([-+]?)0(x[0-9a-f]+|b[01]+|o?[0-7]+)")
_DECIMAL = re.compile(r"[-+]?[1-9][0-9]*")

_NOUNS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_COLLECTIONS = {"featureGates": "a mapping from names to true or false", "logging.vmodule": "a list of patterns"}


class InvalidField(Struct, frozen=True):
    """A field whose value is wrong; `text` is a clause that names the value."""

    path: str
    text: str


class FileContent(Struct, frozen=True):
    """What a file says: values by path, without those that mean the default, and what is wrong with it."""

    given: dict[str, Any]
    problems: tuple[InvalidField, ...] = ()
    unknown: tuple[str, ...] = ()
    duplicate: tuple[str, ...] = ()


def decode(data: bytes) -> FileContent:
    """Read one YAML (or JSON) document. Raises ValueError with a sentence where it is not one mapping."""
    raw, duplicate = _parse(data)
    walk = _Walk()
    walk.section(raw, KubeProxyConfiguration, "")
    for path, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        if path not in walk.seen:
            walk.problems.append(InvalidField(path, f"is missing; it must be {wanted}"))
        elif walk.given.get(path, wanted) != wanted:
            walk.problems.append(InvalidField(path, f"{walk.given[path]!r} is not {wanted}"))
    return FileContent(walk.given, tuple(walk.problems), tuple(walk.unknown), duplicate)


def check_duration(text: str) -> str:
    """`text` itself. Raises ValueError with a clause where Go would refuse it."""
    if abs(parse_duration(text)) > _LONGEST:
        raise ValueError(f"{text!r} is longer than a duration can be")
    return text


class _Walk:
    def __init__(self) -> None:
        self.given: dict[str, Any] = {}
        self.problems: list[InvalidField] = []
        self.unknown: list[str] = []
        self.seen: set[str] = set()

    def section(self, raw: dict[object, object], kind: type[Struct], prefix: str) -> None:
        fields = {item.encode_name: item for item in structs.fields(kind)}
        for key, value in raw.items():
            path = f"{prefix}{key}"
            item = fields.get(key) if isinstance(key, str) else None
            if item is None:
                self.unknown.append(path)
            elif value is None:
                continue
            elif not _is_section(item.type):
                self._leaf(path, item.type, value)
            elif isinstance(value, dict):
                self.section(value, item.type, f"{path}.")
            else:
                self.problems.append(InvalidField(path, f"{_show(value)} is not a mapping"))

    def _leaf(self, path: str, kind: Any, value: object) -> None:
        self.seen.add(path)
        try:
            converted = _convert(path, kind, value)
        except ValueError as error:
            self.problems.append(InvalidField(path, str(error)))
            return
        if path in ZERO_COUNTS or not _is_zero(kind, converted):
            self.given[path] = converted


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def _convert(path: str, kind: Any, value: object) -> object:
    if kind is Duration:
        if path == "logging.flushFrequency" and type(value) is int:
            value = format_duration(value / 1e9)  # the one field that also takes nanoseconds
        return check_duration(value if isinstance(value, str) else _show(value))
    if kind is Quantity:
        kind, value = str, str(value) if type(value) in {int, float} else value
    if kind in {int, float} and isinstance(value, str):
        value = _go_integer(value)
    try:
        converted: object = msgspec.convert(value, kind)
    except msgspec.ValidationError:
        noun = _NOUNS.get(kind) or _COLLECTIONS.get(path, "a list of texts")
        raise ValueError(f"{_show(value)} is not {noun}") from None
    if isinstance(converted, float) and not math.isfinite(converted):
        raise ValueError(f"{value} is not a number")
    if isinstance(converted, int) and abs(converted) > LARGEST_INT:
        raise ValueError(f"{value} is too large")
    return converted


def _go_integer(text: str) -> int | str:
    """The number that go-yaml takes ``0x50``, ``010`` or ``1_000`` for, which `yaml_reader` leaves as text."""
    plain = text.replace("_", "").lower()
    if found := _GO_INTEGER.fullmatch(plain):
        sign, digits = found.groups()
        return int(f"{sign}0{digits if digits[0] in 'xbo' else f'o{digits}'}", 0)
    return int(plain) if "_" in text and _DECIMAL.fullmatch(plain) else text


def _is_zero(kind: Any, value: object) -> bool:
    if kind is Duration and isinstance(value, str):
        return parse_duration(value) == 0
    return not value


def _show(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _parse(data: bytes) -> tuple[dict[object, object], tuple[str, ...]]:
    """The mapping in `data`, and the paths of keys that are given twice, of which kube-proxy too takes the last."""
    from userproxy import yaml_reader  # PyYAML is kept from the start: only one with --config needs it

    duplicate: list[str] = []
    try:
        value = yaml_reader.parse_one(data, "", duplicate.append)
    except yaml_reader.MalformedTextError as error:
        raise ValueError(f"line {error.line}: {error.reason}" if error.line else error.reason) from None
    if not isinstance(value, dict):
        raise ValueError(f"is not a mapping with apiVersion {API_VERSION} and kind {KIND}")
    return value, tuple(duplicate)


def render(configuration: KubeProxyConfiguration) -> bytes:
    """The configuration as YAML, with every field."""
    from userproxy import yaml_reader  # loads YAML, which a start without a file does not need

    return yaml_reader.dump(plain(configuration))


def write(configuration: KubeProxyConfiguration, file: Path) -> tuple[str, ...]:
    """Write the file, and return the paths whose value a file cannot express, because zero means the default there.

    Raises UsageError if the file cannot be written.
    """
    data = render(configuration)
    try:
        file.write_bytes(data)
    except OSError as error:
        raise UsageError(f"--write-config-to: {file}: {(error.strerror or str(error)).lower()}") from error
    read = dict(leaves(replaced(KubeProxyConfiguration(), decode(data).given)))
    return tuple(path for path, value in leaves(configuration) if value != read[path])
