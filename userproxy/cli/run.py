"""``userproxy run``: serve until told to stop."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from userproxy import __version__
from userproxy.cli.cleanup import cleanup
from userproxy.cli.errors import exit_on_usage_error
from userproxy.cli.flags import given_of, normalised, with_flags
from userproxy.cli.importing import uncollected, without_authorities
from userproxy.config import Loaded, load, require_source
from userproxy.config.flags import FLAGS
from userproxy.config.kubeproxy import KubeProxyConfiguration
from userproxy.processes.takeover.deference import Deference


@click.command(context_settings={"token_normalize_func": normalised})
@with_flags(FLAGS)
@click.version_option(__version__, prog_name="userproxy")
@click.pass_context
@exit_on_usage_error
def run(context: click.Context, /, **flags: str | Sequence[str] | None) -> None:
    """Serve Services until SIGTERM or SIGINT.

    Takes kube-proxy's flags and, with --config, its configuration file.
    """
    given = given_of(flags)
    loaded = load(given)
    _announce(loaded)
    if loaded.write_config_to:
        _write(loaded.settings.configuration, loaded.write_config_to)
    elif loaded.cleanup:
        context.invoke(cleanup, socket=loaded.settings.admin_socket)
    elif loaded.init_only:
        from userproxy.wiring.conntrack_settings import set_up

        set_up(loaded.settings)
    else:
        require_source(loaded.settings, os.environ)
        deference = Deference()
        if loaded.settings.takeover:
            deference.begin()
        with uncollected(), without_authorities():
            from userproxy.wiring.serve import run as serve

        sys.exit(serve(loaded.settings, lambda: load(given).settings, deference))


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
