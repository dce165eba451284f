"""Go's durations (``250ms``, ``1m30s``), as kube-proxy's flags and configuration file write them.

Syntax: the documentation of Go's ``time.ParseDuration``.
"""

import re

_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TERM = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")


def parse_duration(text: str) -> float:
    """Seconds in a Go duration. Negative durations parse; callers that cannot use one say so.

    Raises ValueError, whose text names the value, where Go would not parse it.
    """
    body = text[1:] if text[:1] in {"+", "-"} else text
    if body == "0":
        return 0.0
    position, seconds = 0, 0.0
    while position < len(body):
        term = _TERM.match(body, position)
        if term is None:
            break
        seconds += float(term[1]) * _SECONDS[term[2]]
        position = term.end()
    if not body or position < len(body):
        raise ValueError(f"{text!r} is not a duration such as 250ms, 2s or 1m30s")
    return -seconds if text[0] == "-" else seconds


def format_duration(seconds: float) -> str:
    """The shortest Go duration that means `seconds`, to the nanosecond: ``1m30s``, ``250ms``, ``0s``."""
    nanoseconds = round(abs(seconds) * 1e9)
    sign = "-" if seconds < 0 and nanoseconds else ""
    if nanoseconds < 1_000_000_000:
        for unit, size in (("ms", 1_000_000), ("µs", 1_000), ("ns", 1)):
            if nanoseconds >= size:
                return f"{sign}{_decimal(nanoseconds, size)}{unit}"
        return "0s"
    minutes, rest = divmod(nanoseconds, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}h" if hours else ""
    text += f"{minutes}m" if minutes else ""
    text += f"{_decimal(rest, 1_000_000_000)}s" if rest else ""
    return sign + text


def _decimal(value: int, size: int) -> str:
    whole, fraction = divmod(value, size)
    if not fraction:
        return str(whole)
    digits = len(str(size)) - 1
    return f"{whole}.{fraction:0{digits}d}".rstrip("0")
