"""``userproxy dashboard``."""

import asyncio
import webbrowser
from pathlib import Path

import click

from userproxy.cli.inspect.ending import ends_in_a_sentence
from userproxy.cli.inspect.options import admin_socket
from userproxy.dashboard.serving import has_screen, serve


@click.command()
@click.option(
    "--port", metavar="PORT", type=click.IntRange(0, 65535), default=0, help="Of 127.0.0.1.  [default: a free one]"
)
@click.option("--no-open", is_flag=True, help="Print the link and open no browser.")
@admin_socket
@ends_in_a_sentence
def dashboard(port: int, no_open: bool, socket: str | None) -> None:  # noqa: FBT001 - click's way
    """Show what a running userproxy does on a page in the browser, until Ctrl-C.

    Services with live rates, the way from clients to endpoints, connections, decisions and health. Prints a link, which
    opens the page once, for one browser; the page is on loopback and for your own user alone. Where there is a screen,
    the browser is opened.
    """
    opens = not no_open and has_screen()

    def announce(link: str) -> None:
        click.echo(link)
        click.echo("The link opens the page once, in one browser. Ctrl-C ends it.", err=True)
        if opens:
            webbrowser.open(link)

    asyncio.run(serve(Path(socket) if socket else None, port, announce))
