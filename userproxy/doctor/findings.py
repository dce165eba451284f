"""What a check finds."""

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import TypeAlias

from msgspec import Struct

from userproxy.config import Settings


class Result(StrEnum):
    """How bad it is. WARN: something works less well than it could, or only as long as nothing changes. FAIL: a proxy
    that starts with these settings does not serve, or not what it should."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Outcome(Struct, frozen=True):
    """One sentence about what was found, without a full stop, and one about what to do, empty if that is nothing."""

    result: Result
    text: str
    advice: str = ""


class Finding(Struct, frozen=True):
    """An outcome, and the name of the check that it is of."""

    name: str
    result: Result
    text: str
    advice: str = ""


Check: TypeAlias = Callable[[Settings], Iterable[Outcome]]
"""Looks at one thing, for a proxy with these settings. Blocking. Raises UserproxyError or OSError where it cannot."""


def ok(text: str) -> Outcome:
    """All is well."""
    return Outcome(Result.OK, text)


def warn(text: str, advice: str) -> Outcome:
    """Something may go wrong."""
    return Outcome(Result.WARN, text, advice)


def fail(text: str, advice: str) -> Outcome:
    """Something does not work."""
    return Outcome(Result.FAIL, text, advice)
