"""A decision of the data plane in one line, in the form of ``hubble observe -o compact``."""

from collections.abc import Iterator, Mapping
from datetime import tzinfo
from typing import Any, Final

from userproxy.cli.output.tables import Item, printable
from userproxy.cli.output.units import amount, latency, time_of_day

COLOURS: Final[Mapping[str, str]] = {
    "served": "green",
    "retried": "yellow",
    "refused": "red",
    "dropped": "red",
    "reset": "magenta",
    "timed-out": "red",
}
"""Of the verdicts, on a terminal."""


def compact(decision: Item, zone: tzinfo | None = None) -> tuple[str, str, str]:
    """The line in three parts: what is before the verdict, the verdict, and what is after it."""
    route = " -> ".join((decision["client"], decision["portal"] or "?", service_port(decision), _endpoint(decision)))
    after = "; ".join(_remarks(decision))
    head = f"{time_of_day(decision['time'], zone)}: {route} {decision['protocol']} "
    return printable(head), str(decision["verdict"]).upper(), printable(f" ({after})" if after else "")


def service_port(item: Item) -> str:
    """``NS/NAME:PORT``, without the colon where the port has no name."""
    return f"{item['service']}:{item['port']}" if item["port"] else str(item["service"])


def _endpoint(decision: Item) -> str:
    return str(decision["endpoint"] or "none")


def _remarks(decision: Item) -> Iterator[str]:
    tried: list[dict[str, Any]] = decision["tried"]
    if decision["reason"] and decision["reason"] not in (each["reason"] for each in tried):
        yield str(decision["reason"])
    if tried:
        yield "tried " + ", ".join(f"{each['endpoint']}: {each['reason']}" for each in tried)
    figures = [latency(decision["duration_seconds"])]
    if decision["verdict"] != "retried":  # its bytes are told when it ends
        figures += [f"{amount(decision['bytes_up'])} up", f"{amount(decision['bytes_down'])} down"]
    yield ", ".join(figures)
