"""``userproxy explain``: what a client's next connection would meet, and why."""

import json

import click

from userproxy.admin.client import AdminClient
from userproxy.cli.inspect.ending import ends_in_a_sentence
from userproxy.cli.inspect.options import PROTOCOLS, admin_socket, endpoint, ip_address, subject
from userproxy.cli.output.explanation import explanation
from userproxy.cli.output.forms import as_yaml
from userproxy.errors import UsageError


@click.command()
@click.argument("target", metavar="NS/NAME[:PORT]")
@click.option(
    "--from", "client", metavar="IP", required=True, help="Whose connection: the address as the node sees it."
)
@click.option(
    "--to",
    metavar="PORTAL",
    help="Where the client connects to: IP, or IP:PORT. A node port is at every address of the node, and 0.0.0.0:PORT"
    " means any of them.  [default: the cluster IP]",
)
@click.option("--protocol", type=click.Choice(PROTOCOLS, case_sensitive=False), help="Where a port number has both.")
@click.option("-o", "--output", type=click.Choice(["text", "json", "yaml"]), default="text", show_default=True)
@admin_socket
@ends_in_a_sentence
def explain(target: str, client: str, to: str | None, protocol: str | None, output: str, socket: str | None) -> None:
    """Say what a client's next connection to a Service would meet, and why. Nothing is changed.

    The verdict (serve, reject or drop), which policy decides, on whose endpoints, whether each endpoint may serve and
    why not, and which one is next. PORT is the name or the number of a port of the Service.
    """
    name, _, port = target.partition(":")
    meant = subject(name)
    if not meant.service:
        raise UsageError(f"{target!r} is not the name of a Service: write NS/NAME, for example default/web")
    found = AdminClient(socket).get(
        "explain",
        namespace=meant.namespace,
        service=meant.service,
        port=port,
        client=ip_address(client, "--from"),
        to=endpoint(to, "--to") if to else "",
        protocol=protocol or "",
    )
    match output:
        case "json":
            click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        case "yaml":
            click.echo(as_yaml(found))
        case _:
            click.echo("\n".join(explanation(found)))
