"""``userproxy fault``: makes connections slow, or resets or refuses them, for some time."""

import ipaddress
from typing import Any, Final

import click

from userproxy.admin.client import AdminClient
from userproxy.cli.inspect.ending import ends_in_a_sentence
from userproxy.cli.inspect.options import admin_socket
from userproxy.cli.output.kinds import NONE
from userproxy.cli.output.tables import Column, Item, Table
from userproxy.cli.output.units import time_of_day
from userproxy.cli.steer.values import duration, endpoint_with_port, service
from userproxy.errors import UsageError
from userproxy.sizes import parse_rate, parse_size

_DAY: Final = 86_400.0
_MINUTE: Final = 60.0
_MOST_BYTES: Final = 10**12
_MOST_RATE: Final = 10**10


@click.group()
def fault() -> None:
    """Make connections slow, reset or refuse them, for some time; needs `userproxy run --allow-faults`."""


@fault.command(name="set")
@click.argument("target", metavar="NS/NAME[:PORT]")
@click.option("--endpoint", metavar="IP:PORT", help="Only connections to this endpoint.")
@click.option("--client", metavar="CIDR", help="Only connections of clients with such an address.")
@click.option("--latency", metavar="DURATION", help="What passes comes so much later, up to 60s.")
@click.option("--jitter", metavar="DURATION", help="With --latency: give or take so much.")
@click.option(
    "--direction",
    type=click.Choice(["up", "down", "both"]),
    help="With --latency and --drop: what goes to the endpoint (up), to the client (down), or both."
    "  [default: down for --latency, both for --drop]",
)
@click.option("--refuse", is_flag=True, help="New connections are reset at once. For TCP.")
@click.option("--blackhole", is_flag=True, help="Nothing passes. Of TCP nothing is lost: it passes later.")
@click.option("--reset-after", metavar="SIZE|DURATION", help="Connections are reset after 64KB, or after 2s. For TCP.")
@click.option("--bandwidth", metavar="RATE", help="At most 1MB/s pass of a connection, each way. For TCP.")
@click.option("--drop", is_flag=True, help="Datagrams are lost: all, or as many as --percent says. For UDP.")
@click.option(
    "--percent",
    metavar="N",
    help="Only so many of the connections, by chance; of datagrams with --drop.  [default: 100]",
)
@click.option("--for", "for_", metavar="DURATION", required=True, help="How long, up to 24h.")
@admin_socket
@ends_in_a_sentence
def set_(target: str, for_: str, endpoint: str | None, client: str | None, socket: str | None, **given: Any) -> None:
    """Have connections of a Service suffer a fault, those that are open and new ones, and print its number.

    Exactly one of --latency, --refuse, --blackhole, --reset-after, --bandwidth and --drop. Several faults may concern
    one connection. They end when userproxy is stopped or taken over.
    """
    name, _, port = target.partition(":")
    body = {
        "service": str(service(name)),
        "port": port or None,
        "endpoint": None if endpoint is None else endpoint_with_port(endpoint, "--endpoint"),
        "client": None if client is None else _network(client),
        "effect": _effect(**given),
        "percent": _percent(given["percent"]),
        "for_seconds": duration(for_, "--for", 1.0, _DAY),
    }
    found = AdminClient(socket).post("faults", body)
    click.echo(f"{found['text']}, for {_about(found)} until {time_of_day(found['until'])}")


@fault.command(name="list")
@admin_socket
@ends_in_a_sentence
def list_(socket: str | None) -> None:
    """List the faults in force."""
    found = list(AdminClient(socket).items("faults"))
    if found:
        click.echo("\n".join(Table(_COLUMNS, wide=True).lines(found)))
    else:
        click.echo("No faults in force.", err=True)


@fault.command()
@click.argument("number", metavar="[ID]", required=False)
@click.option("--all", "every", is_flag=True, help="All faults.")
@admin_socket
@ends_in_a_sentence
def clear(number: str | None, every: bool, socket: str | None) -> None:  # noqa: FBT001 - click's way
    """End a fault, or all of them."""
    if (number is None) is not every:
        raise UsageError("say which fault is to be cleared: its ID, or --all")
    if number is not None and not (number.isascii() and number.isdecimal() and 0 < int(number) <= 10**6):
        raise UsageError(f"{number!r} is not the number of a fault: `userproxy fault list` has them")
    asked = {"all": True} if number is None else {"id": int(number)}
    ended = AdminClient(socket).delete("faults", **asked)["ended"]
    click.echo(f"{ended} fault{'s' if ended != 1 else ''} cleared")


def _effect(**given: Any) -> dict[str, Any]:
    """The one effect that is asked for. Raises UsageError."""
    kinds = ("latency", "refuse", "blackhole", "reset_after", "bandwidth", "drop")
    asked = [kind for kind in kinds if given[kind]]
    if len(asked) != 1:
        options = ", ".join(f"--{kind.replace('_', '-')}" for kind in kinds)
        raise UsageError(f"a fault has exactly one of {options}, and this one {len(asked)}: set one after the other")
    kind = asked[0]
    if given["jitter"] and kind != "latency":
        raise UsageError("--jitter: it belongs to --latency")
    if given["direction"] and kind not in ("latency", "drop"):
        raise UsageError("--direction: it belongs to --latency and --drop")
    way = {"direction": given["direction"]} if given["direction"] else {}
    match kind:
        case "latency":
            jitter = duration(given["jitter"], "--jitter", 0.0, _MINUTE) if given["jitter"] else 0.0
            seconds = duration(given["latency"], "--latency", 0.0, _MINUTE)
            return {"kind": kind, "seconds": seconds, "jitter_seconds": jitter, **way}
        case "reset_after":
            return _reset_after(given["reset_after"])
        case "bandwidth":
            return {"kind": kind, "bytes_per_second": _bounded(parse_rate, given[kind], "--bandwidth", _MOST_RATE)}
        case "drop":
            return {"kind": kind, **way}
    return {"kind": kind}


def _reset_after(text: str) -> dict[str, Any]:
    """After a size, or after a duration: sizes end in B or have a unit that no duration has. Raises UsageError."""
    if text[-1:] in "sSmMhH" and text[-1:].islower() and not text[-1:].isdigit():
        return {"kind": "reset-after-seconds", "seconds": duration(text, "--reset-after", 0.001, _DAY)}
    try:
        return {"kind": "reset-after-bytes", "bytes": _bounded(parse_size, text, "--reset-after", _MOST_BYTES)}
    except UsageError:
        raise UsageError(f"--reset-after: {text!r} is neither a size such as 64KB nor a duration such as 2s") from None


def _bounded(parse: Any, text: str, option: str, most: int) -> int:
    try:
        found: int = parse(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None
    if not 1 <= found <= most:
        raise UsageError(f"{option}: {text} is not between 1 byte and {most} bytes")
    return found


def _percent(text: str | None) -> float:
    try:
        found = 100.0 if text is None else float(text.removesuffix("%"))
    except ValueError:
        found = 0.0
    if not 0 < found <= 100:
        raise UsageError(f"--percent: {text!r} is not a number above 0 and up to 100")
    return found


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise UsageError(f"--client: {text!r} is no address or network such as 10.0.0.1 or 10.0.0.0/8") from None


def _about(item: Item) -> str:
    ports = f":{','.join(item['ports'])}" if item["ports"] else ""
    parts = [f"{item['service']}{ports}"]
    parts += [f"endpoint {item['endpoint']}"] if item["endpoint"] else []
    parts += [f"clients of {item['client']}"] if item["client"] else []
    return ", ".join(parts)


_COLUMNS: Final = (
    Column("ID", lambda item: str(item["id"])),
    Column("SERVICE", lambda item: str(item["service"])),
    Column("PORTS", lambda item: ",".join(item["ports"]) or NONE),
    Column("ENDPOINT", lambda item: item["endpoint"] or NONE),
    Column("CLIENT", lambda item: item["client"] or NONE),
    Column("FAULT", lambda item: str(item["text"]).partition(": ")[2]),
    Column("UNTIL", lambda item: time_of_day(item["until"])),
)
