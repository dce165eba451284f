"""``userproxy drain`` and ``undrain``: whether an endpoint gets new clients."""

import click

from userproxy.admin.client import AdminClient
from userproxy.cli.inspect.ending import ends_in_a_sentence
from userproxy.cli.inspect.options import admin_socket
from userproxy.cli.output.units import time_of_day
from userproxy.cli.steer.values import duration, endpoint_with_port, service
from userproxy.errors import UsageError

_WEEK = 7 * 86_400.0

_namespace = click.option("-n", "--namespace", metavar="NS", help="The namespace, where NAME alone is given.")


@click.command()
@click.argument("target", metavar="NS/NAME")
@click.option("--endpoint", metavar="IP:PORT", required=True, help="Which endpoint of the Service.")
@click.option("--for", "for_", metavar="DURATION", help="How long, up to a week.  [default: until `undrain`]")
@click.option(
    "--close-after",
    metavar="DURATION",
    help="When to close the connections that are left.  [default: they stay until they end]",
)
@_namespace
@admin_socket
@ends_in_a_sentence
def drain(
    target: str,
    endpoint: str,
    for_: str | None,
    close_after: str | None,
    namespace: str | None,
    socket: str | None,
) -> None:
    """Give no new connections to an endpoint, as long as the Service has another one that is usable.

    It outlives a take-over of userproxy, and ends with a stop. Of the same endpoint the last drain counts.
    """
    meant, which = service(target, namespace), endpoint_with_port(endpoint, "--endpoint")
    seconds = None if for_ is None else duration(for_, "--for", 1.0, _WEEK)
    closes = None if close_after is None else duration(close_after, "--close-after", 0.0, _WEEK)
    if seconds is not None and closes is not None and closes >= seconds:
        raise UsageError(f"--close-after: {close_after} is not less than --for {for_}, after which the drain is over")
    body = {
        "service": str(meant),
        "endpoint": which,
        "for_seconds": seconds,
        "close_after_seconds": closes,
    }
    found = AdminClient(socket).post("drains", body)
    end = "until `undrain`" if found["until"] is None else f"until {time_of_day(found['until'])}"
    closing = f"; connections are closed at {time_of_day(found['closes_at'])}" if found["closes_at"] else ""
    click.echo(f"{found['service']}: {found['endpoint']} gets no new clients {end}{closing}")


@click.command()
@click.argument("target", metavar="NS/NAME")
@click.option("--endpoint", metavar="IP:PORT", help="Which endpoint of the Service.  [default: all that are drained]")
@_namespace
@admin_socket
@ends_in_a_sentence
def undrain(target: str, endpoint: str | None, namespace: str | None, socket: str | None) -> None:
    """Give new connections to an endpoint again that was drained."""
    meant = service(target, namespace)
    which = "" if endpoint is None else endpoint_with_port(endpoint, "--endpoint")
    ended = AdminClient(socket).delete("drains", namespace=meant.namespace, service=meant.service, endpoint=which)
    click.echo(f"{meant}: {ended['ended']} endpoint{'s' if ended['ended'] != 1 else ''} no longer drained")
