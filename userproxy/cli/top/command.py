"""``userproxy top``."""

import sys
import time
from datetime import datetime

import click

from userproxy.admin.client import AdminClient
from userproxy.cli.inspect.ending import ends_in_a_sentence
from userproxy.cli.inspect.get import ensure_known
from userproxy.cli.inspect.options import admin_socket, namespaces, subject
from userproxy.cli.top.sampling import SAMPLERS, Sampler
from userproxy.cli.top.screen import HELP, Screen


@click.command(epilog="\b\n" + HELP)
@click.argument("kind", metavar="services|endpoints|clients", type=click.Choice(list(SAMPLERS)))
@click.argument("target", metavar="[NS/NAME]", required=False)
@namespaces
@click.option("-d", "--delay", metavar="SECONDS", type=click.FloatRange(min=0.1), default=2.0, show_default=True)
@click.option("-b", "--batch", is_flag=True, help="Print table after table, also on a terminal.")
@click.option(
    "--iterations",
    metavar="N",
    type=click.IntRange(min=1),
    help="End after so many tables.  [default: none on a terminal and with -b, else 1]",
)
@admin_socket
@ends_in_a_sentence
def top(
    kind: str,
    target: str | None,
    namespace: str | None,
    all_namespaces: bool,  # noqa: FBT001 - click's way
    delay: float,
    batch: bool,  # noqa: FBT001
    iterations: int | None,
    socket: str | None,
) -> None:
    """Show what services, endpoints or clients do now: connections and bytes a second, errors, dial times.

    A screen that refreshes itself, sorted by connections a second. Where there is no terminal, one table of what
    happens within the delay is printed. Dial times are of all dials since userproxy opened the service port, of
    clients those of their present connections. Without -n those of all namespaces are shown.
    """
    meant = subject(target, namespace, all_namespaces=all_namespaces)
    client = AdminClient(socket)
    if meant.service:
        ensure_known(client, meant)
    sampler = SAMPLERS[kind](client, {"namespace": meant.namespace, "service": meant.service})
    screen = Screen(kind.upper().removesuffix("S"), delay)
    if batch or not (sys.stdin.isatty() and sys.stdout.isatty()):
        _print(sampler, screen, kind, iterations or (None if batch else 1))
        return
    from userproxy.cli.top.terminal import run

    run(screen, sampler.rows, lambda: _head(kind, screen, sampler), iterations)


def _print(sampler: Sampler, screen: Screen, kind: str, iterations: int | None) -> None:
    sampler.rows()
    while iterations is None or iterations > 0:
        time.sleep(screen.delay)
        screen.show(sampler.rows())
        click.echo("\n".join([_head(kind, screen, sampler), *screen.table()]))
        iterations = None if iterations is None else iterations - 1
        if iterations != 0:
            click.echo()


def _head(kind: str, screen: Screen, sampler: Sampler) -> str:
    now = f"{datetime.now().astimezone():%H:%M:%S}"
    note = f"; {sampler.note}" if sampler.note else ""
    return f"{now}  {kind}, every {screen.delay:g} s{note}"
