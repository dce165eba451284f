"""``userproxy status``: whether everything is as it should be."""

import json
import time
from datetime import datetime

import click

from userproxy.admin.client import AdminClient
from userproxy.cli.errors import FAILED
from userproxy.cli.inspect.ending import ends_in_a_sentence
from userproxy.cli.inspect.options import admin_socket
from userproxy.cli.output.forms import as_yaml
from userproxy.cli.output.tables import Item
from userproxy.cli.output.verdicts import complaints, status_lines


@click.command()
@click.option("-o", "--output", type=click.Choice(["text", "json", "yaml"]), default="text", show_default=True)
@admin_socket
@ends_in_a_sentence
def status(output: str, socket: str | None) -> None:
    """Say whether portals are in sync, since when, and what it is that is wrong.

    For each family: its driver, whether portals are in sync and since when that is so, and how many Services and
    EndpointSlices wait for a sync. For each watch of the source: how long ago it has said anything. For each process:
    the worst delay of its event loop in the last ten seconds, and descriptors used of its limit. Exit code 1 where
    something is wrong.
    """
    found = AdminClient(socket).get("status")
    match output:
        case "json":
            click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        case "yaml":
            click.echo(as_yaml(found))
        case _:
            click.echo("\n".join(status_lines(found, _ages(found))))
    if any(complaints(found)):
        raise SystemExit(FAILED)


def _ages(found: Item) -> dict[str, float]:
    now = time.time()
    times = {family["since"] for family in found["families"]} - {None}
    return {text: max(0.0, now - datetime.fromisoformat(text).timestamp()) for text in times}
