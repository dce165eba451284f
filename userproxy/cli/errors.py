"""How a command ends with an error: one sentence on standard error, and an exit code. The same for all commands."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import click

from userproxy.errors import UsageError, UserproxyError

P = ParamSpec("P")
R = TypeVar("R")

FAILED = 1
BAD_USAGE = 2


def exit_on_usage_error(command: Callable[P, R]) -> Callable[P, R]:
    """Turn UsageError into exit code 2 and any other UserproxyError into exit code 1, each with its sentence."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except UserproxyError as error:
            click.echo(f"Error: {error}", err=True)
            raise SystemExit(BAD_USAGE if isinstance(error, UsageError) else FAILED) from error

    return wrapped
