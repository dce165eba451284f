"""``userproxy observe``: what became of clients, one line each."""

import os
from collections.abc import Iterable
from typing import Any

import click

from userproxy.admin.client import AdminClient
from userproxy.cli.inspect.ending import ends_in_a_sentence
from userproxy.cli.inspect.get import ensure_known
from userproxy.cli.inspect.options import VERDICTS, admin_socket, endpoint, ip_address, namespaces, subject
from userproxy.cli.output.decisions import COLOURS, compact
from userproxy.cli.output.forms import as_json_line

_LAST = 20


@click.command()
@click.argument("target", metavar="[NS/NAME]", required=False)
@namespaces
@click.option("-f", "--follow", is_flag=True, help="Go on with new decisions, until interrupted.")
@click.option(
    "--last",
    metavar="N",
    type=click.IntRange(0, 1_000_000),
    help=f"The newest N of those that are remembered.  [default: {_LAST}; with -f none]",
)
@click.option("--from", "client", metavar="IP", help="Only this client's.")
@click.option("--to-endpoint", "to_endpoint", metavar="IP:PORT", help="Only those that ended at, or tried, it.")
@click.option("--verdict", "verdicts", multiple=True, type=click.Choice(VERDICTS), help="Only these; repeatable.")
@click.option("-o", "--output", type=click.Choice(["compact", "json"]), default="compact", show_default=True)
@admin_socket
@ends_in_a_sentence
def observe(
    target: str | None,
    namespace: str | None,
    all_namespaces: bool,  # noqa: FBT001 - click's way
    follow: bool,  # noqa: FBT001
    last: int | None,
    client: str | None,
    to_endpoint: str | None,
    verdicts: tuple[str, ...],
    output: str,
    socket: str | None,
) -> None:
    """Show what became of connections and UDP flows, and why.

    One line for each decision: time, client -> portal -> service -> endpoint, protocol, verdict, and in brackets the
    reason, what was tried before and why that failed, how long it took, and bytes. A connection that was retried and
    then served has a line for each. The last decisions of every service port are remembered. Without -n those of all
    namespaces are meant.
    """
    meant = subject(target, namespace, all_namespaces=all_namespaces)
    asked = AdminClient(socket)
    if meant.service:
        ensure_known(asked, meant)
    query = {
        "namespace": meant.namespace,
        "service": meant.service,
        "client": ip_address(client, "--from") if client else "",
        "endpoint": endpoint(to_endpoint, "--to-endpoint") if to_endpoint else "",
        "verdict": verdicts,
    }
    if follow:
        changes = asked.watch("decisions", **query, last=last or None)
        _show((change["object"] for change in changes if change["type"] != "SYNCED"), output)
    elif last != 0:
        _show(asked.get("decisions", **query, last=_LAST if last is None else last)["items"], output)


def _show(decisions: Iterable[dict[str, Any]], output: str) -> None:
    for decision in decisions:
        if output == "json":
            click.echo(as_json_line(decision))
            continue
        head, verdict, after = compact(decision)
        colour = None if os.environ.get("NO_COLOR") else COLOURS.get(decision["verdict"])
        click.echo(head + (click.style(verdict, fg=colour) if colour else verdict) + after)
