"""``userproxy cleanup``: remove what a killed proxy left behind."""

from functools import partial
from typing import TYPE_CHECKING

import click

from userproxy.cli.errors import FAILED, exit_on_usage_error

if TYPE_CHECKING:
    from userproxy.portals.interface import Cleaned


@click.command()
@click.option(
    "--force",
    is_flag=True,
    help="Also while userproxy runs on this node. Its Services are then unreachable until it next checks its rules"
    " (--iptables-sync-period).",
)
@click.option(
    "--admin-socket",
    "socket",
    metavar="PATH",
    help="Where the userproxy that was killed was asked: beside it are data processes found that serve on.  [default:"
    " /run/userproxy/admin.sock]",
)
@exit_on_usage_error
def cleanup(*, force: bool = False, socket: str | None = None) -> None:
    """Remove what userproxy has left by any driver, and say what was removed.

    That is data processes whose control process was killed, with their connections; rules and chains of both iptables
    variants, tables of nftables, and local routes. Programs and parts of the
    kernel that are missing are named, and passed over. Where userproxy runs on this node, also one that is being
    stopped and still serves, nothing is touched, and the exit code is 1; so it is where something cannot be read or
    removed.
    """
    import structlog

    from userproxy.errors import KernelToolError
    from userproxy.portals.cleanup import cleanup_all
    from userproxy.portals.lease import LeaseError
    from userproxy.telemetry.logging import configure

    if not structlog.is_configured():  # `run --cleanup` has flags for that
        configure(0)
    try:
        cleaned = cleanup_all(force=force, first=partial(_end_processes, socket))
    except LeaseError as error:
        hint = (
            "stop it and let that end; --force takes its rules all the same, and nobody is served until it repairs them"
        )
        raise KernelToolError(f"nothing was removed, because {error}: {hint}") from error
    for text in (*cleaned.said, *cleaned.absent):
        click.echo(text)
    for text in cleaned.failed:
        click.echo(f"Error: {text}", err=True)
    if cleaned.failed:
        raise SystemExit(FAILED)
    if not cleaned.said:
        click.echo("Nothing of userproxy was found.")


def _end_processes(socket: str | None) -> "Cleaned":
    """End the data processes whose control process was killed, and say so of each."""
    from userproxy.admin.paths import default_socket
    from userproxy.portals.interface import Cleaned
    from userproxy.processes.control.orphans import end_all

    path = socket or default_socket()
    ended = end_all(str(path)) if path else []
    return Cleaned(tuple(f"ended the data process {pid}, whose control process was killed" for pid in ended))
