"""Everything about one Service, for a person, in the manner of ``kubectl describe``."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import tzinfo

from userproxy.cli.output.decisions import compact
from userproxy.cli.output.kinds import ENDPOINTS, NONE, PORTALS
from userproxy.cli.output.tables import Column, Item, Table, indented, printable
from userproxy.cli.output.units import amount, limits, time_of_day


def describe_service(
    ports: Sequence[Item],
    endpoints: Sequence[Item],
    portals: Sequence[Item],
    problems: Iterable[Item],
    decisions: Iterable[Item],
    zone: tzinfo | None = None,
    faults: Iterable[Item] = (),
) -> list[str]:
    """The lines; `ports` are those of the Service, at least one, and the other lists are of them alone."""
    first = ports[0]
    lines = _pairs(
        ("Name", first["name"]),
        ("Namespace", first["namespace"]),
        ("Affinity", first["affinity"]),
        ("Balancer", first["balancer"]),
        ("Client address", first["client_address"]),
    )
    for port in ports:
        lines += ["", f"Port {port['port'] or '(no name)'}, {port['protocol']}:"]
        mine = [[each for each in items if each["port"] == port["port"]] for items in (endpoints, portals)]
        lines += indented(_port_lines(port, *mine))
    lines += ["", *_section("Problems", [printable(_problem(each)) for each in problems])]
    if in_force := [printable(_fault(each, zone)) for each in faults]:
        lines += ["", *_section("Faults", in_force)]
    lines += ["", *_section("Last decisions", ["".join(compact(each, zone)) for each in decisions])]
    return lines


def _port_lines(port: Item, endpoints: Sequence[Item], portals: Sequence[Item]) -> Iterator[str]:
    counts = port["endpoints"]
    kept_out = f"{port['limited']} refused, {port['waiting']} waiting"
    headers = {"sent to endpoints": port["proxy_protocol"], "expected": port["accept_proxy_protocol"]}
    yield from _pairs(
        ("Clients", f"{port['active']} active, {port['total']} in all"),
        ("Retried", f"{port['retried']}, and {port['failed']} failed"),
        ("Bytes", f"{amount(port['bytes_up'])} up, {amount(port['bytes_down'])} down"),
        *([("Limits", f"{limits(port['limits'])}; {kept_out}")] if port["limits"] else ()),
        *([("Hold", f"{port['hold']:g} s while there is no endpoint; {port['held']} held")] if port["hold"] else ()),
        *(("PROXY", f"header {version} is {what}") for what, version in headers.items() if version),
    )
    yield from _section("Portals", _rows(PORTALS.columns, portals, "SERVICE"))
    title = f"Endpoints, {counts['usable']} of {counts['all']} usable"
    yield from _section(title, _rows(ENDPOINTS.columns, endpoints, "SERVICE"))


def _rows(columns: Iterable[Column], items: Sequence[Item], without: str) -> list[str]:
    if not items:
        return []
    return Table([each for each in columns if each.heading != without], wide=True).lines(items)


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"{title}:", *indented(lines)] if lines else [f"{title}:  {NONE}"]


def _pairs(*pairs: tuple[str, str]) -> list[str]:
    width = max(len(title) for title, _ in pairs) + 1
    return [printable(f"{title + ':':<{width}}  {text}") for title, text in pairs]


def _fault(fault: Item, zone: tzinfo | None) -> str:
    about = [f"ports {', '.join(fault['ports'])}"] if fault["ports"] else []
    about += [f"endpoint {fault['endpoint']}"] if fault["endpoint"] else []
    about += [f"clients of {fault['client']}"] if fault["client"] else []
    return ", ".join((f"{fault['text']}, until {time_of_day(fault['until'], zone)}", *about))


def _problem(problem: Item) -> str:
    return f"{problem['kind']}: {problem['text']}" + (" (on this node)" if problem["here"] else "")
