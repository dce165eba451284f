"""``userproxy diff``: what is wanted against what the kernel has."""

import click

from userproxy.admin.client import AdminClient
from userproxy.cli.errors import FAILED
from userproxy.cli.inspect.ending import ends_in_a_sentence
from userproxy.cli.inspect.options import admin_socket
from userproxy.cli.output.forms import as_yaml
from userproxy.cli.output.tables import Item, printable

_SIGNS = {"missing": "-", "left_over": "+", "unread": "?"}


@click.command()
@click.option("-o", "--output", type=click.Choice(["text", "json", "yaml"]), default="text", show_default=True)
@admin_socket
@ends_in_a_sentence
def diff(output: str, socket: str | None) -> None:
    """Compare what the source wants with what the kernel has: rules, listeners, node ports.

    A line with - is wanted and not there, one with + is there and not wanted, and one with ? says what could not be
    looked at. Exit code 0 and no line where both are equal, else 1. Nothing is changed.
    """
    differences = AdminClient(socket, 60.0).get("diff")
    if output == "text":
        text = "\n".join(difference_lines(differences))
    elif output == "yaml":
        text = as_yaml(differences)
    else:
        import json

        text = json.dumps(differences, indent=2, ensure_ascii=False)
    if text:
        click.echo(text)
    if any(differences[field] for field in _SIGNS):
        raise SystemExit(FAILED)


def difference_lines(differences: Item) -> list[str]:
    """The lines of a comparison, in the manner of diff(1)."""
    return [f"{sign} {printable(line)}" for field, sign in _SIGNS.items() for line in differences[field]]
