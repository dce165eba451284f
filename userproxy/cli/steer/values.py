"""How the values of options are read, with one sentence where one is wrong."""

from userproxy.cli.inspect.options import Subject, endpoint, subject
from userproxy.durations import format_duration, parse_duration
from userproxy.errors import UsageError


def duration(text: str, option: str, least: float, most: float) -> float:
    """Seconds in a Go duration between two others. Raises UsageError."""
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None
    if not least <= seconds <= most:
        raise UsageError(f"{option}: {text} is not between {format_duration(least)} and {format_duration(most)}")
    return seconds


def endpoint_with_port(text: str, option: str) -> str:
    """An endpoint, ``IP:PORT``. Raises UsageError."""
    found = endpoint(text, option)
    if not (found.startswith("[") or found.count(":") == 1):
        raise UsageError(f"{option}: {text!r} has no port: write {f'[{found}]' if ':' in found else found}:PORT")
    return found


def service(target: str, namespace: str | None = None) -> Subject:
    """One Service, ``NS/NAME`` or with a namespace ``NAME``. Raises UsageError."""
    return subject(target, namespace)
