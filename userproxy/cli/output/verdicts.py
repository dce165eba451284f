"""What a status says is wrong, in sentences, and the status for a person."""

from collections.abc import Iterator
from typing import Final

from userproxy.cli.output.tables import Column, Item, Table, indented, printable
from userproxy.cli.output.units import UNKNOWN, age, latency

SLOW_LOOP_SECONDS: Final = 1.0
"""Clients who wait that long for the event loop notice."""

FEW_DESCRIPTORS: Final = 0.9
"""The part of the limit from which on connections are about to wait for descriptors."""


def complaints(status: Item) -> Iterator[str]:
    """A sentence for each thing that is wrong; none where all is well."""
    for family in status["families"]:
        if family["served"] and not family["in_sync"]:
            yield f"{family['family']}: portals are not in sync{_because(family)}"
    for watch in status["watches"]:
        if not watch["synced"]:
            yield f"{watch['resource']}: the source does not tell of changes{_because(watch)}"
    for process in status["processes"]:
        used, limit = process["descriptors"], process["descriptor_limit"]
        if used >= FEW_DESCRIPTORS * limit:
            yield f"process {process['pid']} has {used} of {limit} descriptors in use: raise its limit of open files"
        if process["loop_lag_seconds"] >= SLOW_LOOP_SECONDS:
            lag = latency(process["loop_lag_seconds"])
            yield f"process {process['pid']} has kept clients waiting for {lag}: it has too little CPU"
    if status["problems"]:
        count = "1 problem" if status["problems"] == 1 else f"{status['problems']} problems"
        yield f"{count} of Services: `userproxy describe service NS/NAME` tells those of one, Events and the log all"
    if not status["healthy"]:
        yield "/healthz answers 503: load balancers send their clients to other nodes"


def _because(item: Item) -> str:
    return f": {item['reason']}" if item["reason"] else ""


def _state(family: Item) -> str:
    if not family["served"]:
        return "not served"
    return "synced" if family["in_sync"] else "not in sync"


def status_lines(status: Item, seconds_since: dict[str, float]) -> list[str]:
    """The status for a person. `seconds_since` has the age of each time of day that the status names."""
    wrong = [printable(each) for each in complaints(status)]
    head = f"userproxy {status['version']} on {status['node']}, Services from {status['source']}"
    lines = [printable(head), "Something is wrong:" if wrong else "All is well."]
    lines += indented(wrong)
    families = (
        Column("FAMILY", lambda item: str(item["family"])),
        Column("DRIVER", lambda item: str(item["driver"])),
        Column("STATE", lambda item: _state(item)),
        Column("SINCE", lambda item: age(seconds_since[item["since"]]) if item["since"] else UNKNOWN),
        Column("PENDING", lambda item: str(item["pending_services"] + item["pending_endpoint_slices"])),
    )
    watches = (
        Column("WATCH", lambda item: str(item["resource"])),
        Column("STATE", lambda item: "synced" if item["synced"] else "not synced"),
        Column("LAST EVENT", lambda item: age(item["last_event_age_seconds"])),
    )
    processes = (
        Column("PROCESS", lambda item: str(item["pid"])),
        *([Column("ROLE", lambda item: str(item["role"]))] if len(status["processes"]) > 1 else []),
        Column("LOOP LAG", lambda item: latency(item["loop_lag_seconds"])),
        Column("DESCRIPTORS", lambda item: f"{item['descriptors']}/{item['descriptor_limit']}"),
        Column("CONNECTIONS", lambda item: str(item["connections"])),
        Column("FLOWS", lambda item: str(item["flows"])),
        Column("PIPES", lambda item: str(item["pipes"])),
        *([Column("RESTARTS", lambda item: str(item["restarts"]))] if len(status["processes"]) > 1 else []),
    )
    for columns, field in ((families, "families"), (watches, "watches"), (processes, "processes")):
        lines += ["", *Table(columns).lines(status[field])]
    return lines
