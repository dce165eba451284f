"""``userproxy cleanup``: remove what a killed proxy left behind."""

import click

from userproxy.cli.errors import exit_on_usage_error


@click.command()
@exit_on_usage_error
def cleanup() -> None:
    """Remove every rule and chain of userproxy, in both iptables variants, and say what was removed."""
    import structlog

    from userproxy.portals.iptables import cleanup_all
    from userproxy.telemetry.logging import configure

    if not structlog.is_configured():  # `run --cleanup` has flags for that
        configure(0)
    removed = cleanup_all()
    for text in removed:
        click.echo(text)
    if not removed:
        click.echo("Nothing of userproxy was found.")
