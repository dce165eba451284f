"""``userproxy capture``: the bytes of connections as they pass, into a pcapng file or as a hexdump."""

import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import click

from userproxy.admin.client import AdminClient, AdminError, Parameter
from userproxy.cli.inspect.ending import ends_in_a_sentence
from userproxy.cli.inspect.get import ensure_known
from userproxy.cli.inspect.options import admin_socket, endpoint, ip_address, namespaces, subject
from userproxy.durations import parse_duration
from userproxy.errors import UsageError


@click.command()
@click.argument("target", metavar="NS/NAME")
@namespaces
@click.option("--client", metavar="IP", help="Only this client's.")
@click.option("--endpoint", "to_endpoint", metavar="IP:PORT", help="Only those to this endpoint.")
@click.option("--pcap", metavar="FILE", help="Write a pcapng file, for Wireshark and tshark; - is the standard output.")
@click.option("--hex", "as_hex", is_flag=True, help="Write a hexdump: the default.")
@click.option(
    "--bytes", "payload_bytes", metavar="N", type=click.IntRange(0, 10**15 - 1), help="Of each direction only so many."
)
@click.option("--count", metavar="N", type=click.IntRange(1, 1_000_000), help="N whole connections, then end.")
@click.option("--for", "duration", metavar="DURATION", help="End after this time, for example 30s.")
@admin_socket
@ends_in_a_sentence
def capture(
    target: str,
    namespace: str | None,
    all_namespaces: bool,  # noqa: FBT001 - click's way
    client: str | None,
    to_endpoint: str | None,
    pcap: str | None,
    as_hex: bool,  # noqa: FBT001
    payload_bytes: int | None,
    count: int | None,
    duration: str | None,
    socket: str | None,
) -> None:
    """Capture the bytes of a Service's connections and UDP flows as they pass.

    \b
    userproxy capture default/web --pcap web.pcapng --count 3
    userproxy capture default/web --pcap - | wireshark -k -i -

    Both legs are told apart: from the client to the portal, and from this node to the endpoint. In a file each is a
    stream of its own, with its addresses and ports, and a comment says what was decided. Without --count, connections
    that are open already are captured from now on, too. Needs `userproxy run --allow-capture`. Ctrl-C ends it.
    """
    if pcap and as_hex:
        raise UsageError("--pcap and --hex are two forms: say which of them")
    if pcap == "-" and sys.stdout.isatty():
        raise UsageError("--pcap -: a terminal cannot show it: pipe it into a program, or name a file")
    meant = subject(target, namespace, all_namespaces=all_namespaces)
    query: dict[str, Parameter] = {
        "namespace": meant.namespace,
        "service": meant.service,
        "client": ip_address(client, "--client") if client else "",
        "endpoint": endpoint(to_endpoint, "--endpoint") if to_endpoint else "",
        "payload_bytes": payload_bytes,
        "connections": count,
        "seconds": _seconds(duration),
    }
    asked = AdminClient(socket)
    ensure_known(asked, meant)
    if pcap:
        _write(asked.pieces("capture", **query, form="pcapng"), pcap)
    else:
        _print(asked, query)


def _seconds(duration: str | None) -> str:
    if duration is None:
        return ""
    try:
        seconds = parse_duration(duration)
    except ValueError as error:
        raise UsageError(f"--for: {error}") from None
    if seconds < 0:
        raise UsageError(f"--for: {duration} is less than nothing")
    return f"{seconds:.9f}".rstrip("0").rstrip(".")


def _write(pieces: Iterator[bytes], file: str) -> None:
    """Write a file as it comes, block by block. It is made once the capture has begun, readable by its owner alone."""
    from userproxy.admin.pcapng.blocks import WholeBlocks

    blocks = WholeBlocks()
    first = blocks.add(next(pieces, b""))
    with _opened(file) as out, suppress(KeyboardInterrupt):
        click.echo(f"Capturing to {'standard output' if file == '-' else file}: Ctrl-C ends it.", err=True)
        try:
            for data in chain((first,), map(blocks.add, pieces)):
                out.write(data)
                out.flush()
        except BrokenPipeError:  # whoever is written to has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if blocks.comments:
        raise AdminError(f"the capture is not whole: {blocks.comments[0]}")


def _opened(file: str) -> "nullcontext[BinaryIO] | BinaryIO":
    if file == "-":
        return nullcontext(sys.stdout.buffer)
    try:
        path = Path(file)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(f"--pcap: {file} cannot be written: {(error.strerror or str(error)).lower()}") from error
    return os.fdopen(descriptor, "wb")


def _print(asked: AdminClient, query: dict[str, Parameter]) -> None:
    from userproxy.cli.output.hexdump import Hexdump

    dump = Hexdump()
    with suppress(KeyboardInterrupt):
        for line in asked.lines("capture", **query):
            if line["type"] == "CAPTURING":
                click.echo("Capturing: Ctrl-C ends it.", err=True)
            for text in dump.add(line):
                click.echo(text)
