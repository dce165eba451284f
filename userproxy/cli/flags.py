"""The flags of ``userproxy run`` as click options, for the commands that take them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import click

from userproxy.config.flags import Flag, default_text

F = TypeVar("F", bound=Callable[..., Any])


def with_flags(flags: Sequence[Flag]) -> Callable[[F], F]:
    """Add these options to a command, in their order."""

    def decorated(command: F) -> F:
        for flag in reversed(flags):
            command = _option(flag)(command)
        return command

    return decorated


def given_of(flags: Mapping[str, str | Iterable[str] | None]) -> dict[str, Any]:
    """The flags that were given, for :func:`userproxy.config.load`, from what click makes of them."""
    return {name.replace("_", "-"): text for name, text in flags.items() if text is not None and text != ()}


def normalised(name: str) -> str:
    """A flag's name as it is known: kube-proxy takes underscores for hyphens, too."""
    return name.replace("_", "-")


def _without_sign(_context: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    """Go's flag package also writes ``-v=2``."""
    return text and text.removeprefix("=")


def _option(flag: Flag) -> Callable[[F], F]:
    """The flag as a click option. Its text is passed on as given; a flag that is not given is None or empty."""
    names = ["-v", "--v"] if flag.name == "v" else [f"--{flag.name}"]
    kind, default = flag.kind, default_text(flag)
    switch: dict[str, Any] = {"flag_value": "true"} if kind.is_switch else {}
    return click.option(
        *names,
        flag.name.replace("-", "_"),
        metavar=kind.metavar,
        multiple=kind.is_repeatable,
        is_flag=False,
        **switch,
        default=None,
        callback=_without_sign if flag.name == "v" else None,
        help=f"{flag.help}  [default: {default}]" if default else flag.help,
    )
