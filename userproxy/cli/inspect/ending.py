"""How the commands that ask a running proxy end."""

import functools
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from userproxy.cli.errors import exit_on_usage_error

P = ParamSpec("P")
R = TypeVar("R")

INTERRUPTED: Final = 130
"""The exit code after Ctrl-C, as shells have it: 128 and the signal's number."""


def ends_in_a_sentence(command: Callable[P, R]) -> Callable[P, R]:
    """As :func:`exit_on_usage_error`; Ctrl-C, which is how one leaves what goes on for ever, ends without a word."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return exit_on_usage_error(command)(*args, **kwargs)
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None

    return wrapped
