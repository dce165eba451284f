"""``userproxy describe``: everything about one Service, for a person."""

import click

from userproxy.admin.client import AdminClient
from userproxy.cli.inspect.ending import ends_in_a_sentence
from userproxy.cli.inspect.get import ensure_known
from userproxy.cli.inspect.options import admin_socket, namespaces, subject
from userproxy.cli.output.description import describe_service


@click.command()
@click.argument("kind", metavar="service", type=click.Choice(["service", "services", "svc"]))
@click.argument("target", metavar="NS/NAME")
@namespaces
@click.option(
    "--last",
    metavar="N",
    type=click.IntRange(1, 1_000_000),
    default=10,
    show_default=True,
    help="How many decisions are shown.",
)
@admin_socket
@ends_in_a_sentence
def describe(
    kind: str,  # noqa: ARG001 - there is one kind only
    target: str,
    namespace: str | None,
    all_namespaces: bool,  # noqa: FBT001 - click's way
    last: int,
    socket: str | None,
) -> None:
    """Show everything of one Service: ports, portals, endpoints, its problems, and its last decisions."""
    meant = subject(target, namespace, all_namespaces=all_namespaces)
    client = AdminClient(socket)
    ports = ensure_known(client, meant)
    mine = {"namespace": meant.namespace, "service": meant.service}
    lines = describe_service(
        ports,
        list(client.items("endpoints", **mine)),
        list(client.items("portals", **mine)),
        list(client.items("problems", **mine)),
        client.get("decisions", **mine, last=last)["items"],
        faults=list(client.items("faults", **mine)),
    )
    click.echo("\n".join(lines))
