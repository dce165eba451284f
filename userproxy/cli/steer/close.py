"""``userproxy close``: ends connections."""

import click

from userproxy.admin.client import AdminClient
from userproxy.cli.inspect.ending import ends_in_a_sentence
from userproxy.cli.inspect.options import admin_socket, namespaces, selectors, subject
from userproxy.errors import UsageError

_SELECTORS = frozenset({"client", "endpoint", "id", "protocol"})


@click.command()
@click.argument("kind", metavar="connections", type=click.Choice(["connections", "connection", "conn"]))
@click.argument("target", metavar="[NS/NAME]", required=False)
@namespaces
@click.option(
    "-l",
    "--selector",
    metavar="KEY=VALUE,...",
    help="Those for which this holds: client=IP, endpoint=IP:PORT or IP, protocol=TCP|UDP, id=N."
    " `get connections` has the ids.",
)
@admin_socket
@ends_in_a_sentence
def close(
    kind: str,  # noqa: ARG001 - there is one kind only
    target: str | None,
    namespace: str | None,
    all_namespaces: bool,  # noqa: FBT001 - click's way
    selector: str | None,
    socket: str | None,
) -> None:
    """Reset connections, and end UDP flows: one, or those of a Service, a client or an endpoint.

    Clients may come again at once; to keep them from an endpoint, `drain` it first.
    """
    meant, given = subject(target, namespace, all_namespaces=all_namespaces), selectors(selector, _SELECTORS)
    if not (meant.service or given.keys() & {"client", "endpoint", "id"}):
        raise UsageError("say which connections are to be closed: NS/NAME, -l client=IP, endpoint=IP:PORT, or id=N")
    parameters = {"namespace": meant.namespace, "service": meant.service, **given}
    closed = AdminClient(socket).delete("connections", **parameters)["closed"]
    click.echo(f"{closed} connection{'s' if closed != 1 else ''} closed")
