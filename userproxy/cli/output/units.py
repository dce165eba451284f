"""Figures as a person reads them. What is not known is ``-``."""

from collections.abc import Mapping
from datetime import datetime, tzinfo
from typing import Any, Final

UNKNOWN: Final = "-"

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def amount(number: float | None) -> str:
    """Bytes, in units of 1024: ``512B``, ``1.5KiB``, ``20MiB``."""
    if number is None:
        return UNKNOWN
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 1023.5 or unit == "TiB":
            break
        number /= 1024
    return f"{number:.0f}{unit}" if unit == "B" or number >= 9.95 else f"{number:.1f}{unit}"


def limits(item: Mapping[str, Any] | None) -> str:
    """Those of a service port's clients: ``100 connections (wait), 50/s, idle 5m``; ``-`` for none."""
    if item is None:
        return UNKNOWN
    parts = [f"{item['connections']} connections"] if item["connections"] is not None else []
    if item["rate"] is not None:
        rate = item["rate"]
        parts.append(f"{rate:g}/s" if rate == int(rate) else f"{rate * _MINUTE:g}/m")
    if parts:
        parts[-1] += f" ({item['overflow']})"
    if item["idle"] is not None:
        parts.append(f"idle {age(item['idle'])}")
    return ", ".join(parts)


def age(seconds: float | None) -> str:
    """How long something has lasted, as kubectl has it: the longer, the rougher."""
    if seconds is None:
        return UNKNOWN
    whole = int(seconds)
    if whole < 2 * _MINUTE:
        return f"{whole}s"
    if whole < 10 * _MINUTE:
        return _two(whole, _MINUTE, "m", 1, "s")
    if whole < 3 * _HOUR:
        return f"{whole // _MINUTE}m"
    if whole < 8 * _HOUR:
        return _two(whole, _HOUR, "h", _MINUTE, "m")
    if whole < 2 * _DAY:
        return f"{whole // _HOUR}h"
    if whole < 8 * _DAY:
        return _two(whole, _DAY, "d", _HOUR, "h")
    return f"{whole // _DAY}d"


def _two(whole: int, large: int, large_name: str, small: int, small_name: str) -> str:
    rest = whole % large // small
    return f"{whole // large}{large_name}" + (f"{rest}{small_name}" if rest else "")


def latency(seconds: float | None) -> str:
    """A short time, to three digits: ``85us``, ``1.25ms``, ``340ms``, ``2.50s``; longer ones as an age."""
    if seconds is None:
        return UNKNOWN
    if seconds < 0.0009995:
        return f"{seconds * 1e6:.0f}us"
    if seconds < 0.9995:
        return f"{_three(seconds * 1000)}ms"
    return f"{_three(seconds)}s" if seconds < 99.95 else age(seconds)


def _three(number: float) -> str:
    """Three digits, of which none stands for nothing before the point."""
    digits = 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:.{digits}f}"


def rate(number: float | None) -> str:
    """How often something happens in a second."""
    if number is None:
        return UNKNOWN
    return f"{number:.1f}" if number < 99.95 else f"{number:.0f}"


def time_of_day(text: str, zone: tzinfo | None = None) -> str:
    """An RFC 3339 time as ``hubble observe`` has it, to the millisecond, in this machine's time zone unless told."""
    local = datetime.fromisoformat(text).astimezone(zone)
    return f"{local:%b %e %H:%M:%S}.{local.microsecond // 1000:03}"
