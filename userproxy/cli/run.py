"""``userproxy run``: serve until told to stop."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from userproxy import __version__
from userproxy.cli.cleanup import cleanup
from userproxy.cli.errors import exit_on_usage_error
from userproxy.config import Loaded, load, require_source
from userproxy.config.flags import FLAGS, Flag, default_text
from userproxy.config.kubeproxy import KubeProxyConfiguration

F = TypeVar("F", bound=Callable[..., Any])


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


def _with_flags(command: F) -> F:
    for flag in reversed(FLAGS):
        command = _option(flag)(command)
    return command


@click.command(context_settings={"token_normalize_func": lambda name: name.replace("_", "-")})
@_with_flags
@click.version_option(__version__, prog_name="userproxy")
@click.pass_context
@exit_on_usage_error
def run(context: click.Context, /, **flags: str | Sequence[str] | None) -> None:
    """Serve Services until SIGTERM or SIGINT.

    Takes kube-proxy's flags and, with --config, its configuration file.
    """
    given = {name.replace("_", "-"): text for name, text in flags.items() if text is not None and text != ()}
    loaded = load(given)
    _announce(loaded)
    if loaded.write_config_to:
        _write(loaded.settings.configuration, loaded.write_config_to)
    elif loaded.cleanup:
        context.invoke(cleanup)
    elif loaded.init_only:
        from userproxy.wiring.conntrack_settings import set_up

        set_up(loaded.settings)
    else:
        require_source(loaded.settings, os.environ)
        from userproxy.wiring.serve import run as serve

        sys.exit(serve(loaded.settings, lambda: load(given).settings))


def _announce(loaded: Loaded) -> None:
    """Set up logging and log the notices. Not at the import: that would take longer than printing the help should."""
    from userproxy.telemetry.logging import configure

    configure(loaded.settings.verbosity, loaded.settings.log_format)
    import structlog  # after telemetry.logging, which hides a part that is slow to import

    log = structlog.get_logger()
    for notice in loaded.notices:
        (log.warning if notice.is_warning else log.info)(notice.text, **notice.fields)


def _write(configuration: KubeProxyConfiguration, file: Path) -> None:
    import structlog

    from userproxy.config.file import write

    lost = write(configuration, file)
    if lost:
        structlog.get_logger().warning("A file cannot say this: zero means the default there", fields=list(lost))
