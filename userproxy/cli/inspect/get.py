"""``userproxy get``: lists of what a running proxy has."""

from collections.abc import Callable, Iterator
from typing import Any

import click

from userproxy.admin.client import AdminClient, AdminError
from userproxy.cli.inspect.ending import ends_in_a_sentence
from userproxy.cli.inspect.options import Subject, admin_socket, namespaces, selectors, subject
from userproxy.cli.output.forms import Form, Stream, as_list
from userproxy.cli.output.kinds import CONNECTIONS, KINDS, Kind
from userproxy.cli.output.sorting import sorted_by
from userproxy.cli.output.tables import Column, Item
from userproxy.errors import UsageError


@click.command()
@click.argument("kind", metavar="services|endpoints|connections|portals", type=click.Choice(list(KINDS)))
@click.argument("target", metavar="[NS/NAME]", required=False)
@namespaces
@click.option(
    "-l",
    "--selector",
    metavar="KEY=VALUE,...",
    help="Only those for which this holds. Connections: client=IP, endpoint=IP:PORT or IP, state=STATE,"
    " protocol=TCP|UDP, id=N; services and endpoints: endpoint=, protocol=; portals: protocol=.",
)
@click.option("-o", "--output", type=click.Choice([form.value for form in Form]), default="table", show_default=True)
@click.option("-w", "--watch", is_flag=True, help="Go on with every change, until interrupted.")
@click.option("--output-watch-events", is_flag=True, help="With -w: say whether something is new, changed or gone.")
@click.option("--sort-by", metavar="FIELD", help="A field of -o json; -FIELD for the greatest first.")
@admin_socket
@ends_in_a_sentence
def get(
    kind: str,
    target: str | None,
    namespace: str | None,
    all_namespaces: bool,  # noqa: FBT001 - click's way
    selector: str | None,
    output: str,
    watch: bool,  # noqa: FBT001
    output_watch_events: bool,  # noqa: FBT001
    sort_by: str | None,
    socket: str | None,
) -> None:
    """List services, endpoints, connections or portals of a running userproxy.

    Connections are TCP connections and UDP flows. Without -n those of all namespaces are listed, without NS/NAME those
    of all Services.
    """
    what, meant = KINDS[kind], subject(target, namespace, all_namespaces=all_namespaces)
    query = {"namespace": meant.namespace, "service": meant.service, **selectors(selector, what.selectors)}
    form = Form(output)
    if watch and sort_by:
        raise UsageError("--sort-by: changes come in the order of their times: leave out -w or --sort-by")
    client = AdminClient(socket)
    if watch:
        for line in _followed(client, what, form, query, events=output_watch_events):
            click.echo(line)
        return
    items: list[Item] = list(client.items(what.route, **query))
    if sort_by:
        items = sorted_by(items, sort_by)
    if not items and meant.service:
        ensure_known(client, meant)
    if not items and form not in {Form.JSON, Form.YAML}:
        click.echo(f"No {what.route} found{f' in {meant.namespace}' if meant.namespace else ''}.", err=True)
    else:
        click.echo("\n".join(as_list(form, items, what.columns, what.name)))


def ensure_known(client: AdminClient, meant: Subject) -> list[dict[str, Any]]:
    """The ports of the Service. Raises AdminError where there is none."""
    ports = list(client.items("services", namespace=meant.namespace, service=meant.service))
    if not ports:
        raise AdminError(f"no Service {meant} is served here: `userproxy get services` lists those that are")
    return ports


def _followed(client: AdminClient, kind: Kind, form: Form, query: dict[str, str], *, events: bool) -> Iterator[str]:
    """The lines of what there is, and of every change."""
    shown = with_events(kind) if events else kind
    stream = Stream(form, shown.columns, shown.name)
    first: list[Item] | None = []
    for change in client.watch(kind.route, **query):
        if change["type"] == "SYNCED":
            yield from stream.lines(first or ())
            first = None
            continue
        item = change["object"]
        if change["type"] == "DELETED" and kind is CONNECTIONS:
            item = {**item, "state": "closed"}
        item = {"type": change["type"], "object": item} if events else item
        if first is None:
            yield from stream.lines([item])
        else:
            first.append(item)


def with_events(kind: Kind) -> Kind:
    """The same list with what has happened to each item, in the form of Kubernetes' watches."""

    def of_object(text: Callable[[Item], str]) -> Callable[[Item], str]:
        return lambda change: text(change["object"])

    event = Column("EVENT", lambda change: str(change["type"]))
    columns = (event, *(column._replace(text=of_object(column.text)) for column in kind.columns))
    return kind._replace(columns=columns, name=of_object(kind.name))
