"""``userproxy dashboard``, and ``kubectl userproxy dashboard``, which shows the proxy of a Pod."""

import asyncio
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from userproxy.cli.inspect.ending import ends_in_a_sentence
from userproxy.cli.inspect.options import admin_socket
from userproxy.dashboard.serving import has_screen, serve
from userproxy.dashboard.tunnel import tunnel


@click.command()
@click.option(
    "--port", metavar="PORT", type=click.IntRange(0, 65535), default=0, help="Of 127.0.0.1.  [default: a free one]"
)
@click.option("--no-open", is_flag=True, help="Print the link and open no browser.")
@admin_socket
@click.pass_obj
@ends_in_a_sentence
def dashboard(inside: Sequence[str] | None, port: int, no_open: bool, socket: str | None) -> None:  # noqa: FBT001 - click's way
    """Show what a running userproxy does on a page in the browser, until Ctrl-C.

    Services with live rates, the way from clients to endpoints, connections, decisions and health. Prints a link, which
    opens the page once, for one browser; the page is on loopback and for your own user alone. Where there is a screen,
    the browser is opened.
    """
    announce = _announcement(opens=not no_open and has_screen())
    if inside is None:
        asyncio.run(serve(Path(socket) if socket else None, port, announce))
    else:
        place = ["--admin-socket", socket] if socket else []
        asyncio.run(_serve_pod([*inside, "relay", *place], port, announce))


async def _serve_pod(argv: Sequence[str], port: int, announce: Callable[[str], None]) -> None:
    """Show the proxy whose admin socket a program is connected with."""
    async with tunnel(argv) as path:
        await serve(path, port, announce)


def _announcement(*, opens: bool) -> Callable[[str], None]:
    def announce(link: str) -> None:
        click.echo(link)
        click.echo("The link opens the page once, in one browser. Ctrl-C ends it.", err=True)
        if opens:
            webbrowser.open(link)

    return announce
