"""``python -m examples.benchmarks instructions``: those of a request and of a connection, counted by callgrind."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import repeat
from pathlib import Path
from socket import create_connection, socket
from tempfile import TemporaryDirectory

import click
import msgspec
from msgspec import Struct

from examples.benchmarks.callgrind import CallgrindError, Counter, under_callgrind
from examples.benchmarks.data_process import data_process
from examples.benchmarks.exchanges import answering, ask, ask_on, is_served
from examples.benchmarks.measure import settled_cpu_seconds
from examples.benchmarks.peers import Way, peers
from examples.benchmarks.processes import StartError, free_port, running, wait_until_served
from examples.benchmarks.report import table

DATA = "data process"
_KINDS = ("userproxy", DATA, "haproxy")
_START_LIMIT = 600.0
"""A start under callgrind takes half a minute, and on a busy machine some minutes."""

_REST_SECONDS = 0.3
"""How long a proxy has to close what clients have left."""

_IDLE_SECONDS = 2.0

Proxy = tuple[int, tuple[str, int]]
"""The id of a process that is counted, and the address at which it is to be asked."""


class Counts(Struct, frozen=True):
    """User instructions of one proxy for each request and each connection, with so many clients at once."""

    proxy: str
    at_once: int
    request: float
    connection: float


class Run(Struct, frozen=True):
    """So many requests or connections, and the instructions and the seconds of the clock that they took together."""

    pieces: int
    instructions: int
    seconds: float


@click.command()
@click.option("--proxies", default=",".join(_KINDS), show_default=True, help="Which, in which order.")
@click.option("--at-once", default="1,16", show_default=True, help="Clients that ask at the same time.")
@click.option("--few", default=160, show_default=True, help="Requests, or connections, of the smaller run.")
@click.option("--many", default=1_120, show_default=True, help="Those of the larger run.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Also write JSON here.")
def main(proxies: str, at_once: str, few: int, many: int, json_file: Path | None) -> None:
    """User instructions for a request on a kept connection, and for a connection (connect, one request, close).

    Each is the difference of a smaller and a larger run of one process, divided by that of their requests or
    connections. "data process" is userproxy's, "userproxy" carries traffic itself (--workers 0). What the kernel does
    is not counted, and what a busy machine does to caches does not matter. One client alone finds nobody to share a
    wake-up with.
    """
    if unknown := set(proxies.split(",")) - {*_KINDS}:
        raise click.BadParameter(f"--proxies: {', '.join(sorted(unknown))} cannot be counted")
    if few >= many:
        raise click.BadParameter(f"--few {few} is not below --many {many}")
    clients = [int(number) for number in at_once.split(",") if number.isdecimal()]
    if 0 in clients or len(clients) <= at_once.count(","):
        raise click.BadParameter(f"--at-once {at_once}: it is not a list of numbers above 0")
    try:
        counts = [each for proxy in proxies.split(",") for each in count_instructions(proxy, clients, few, many)]
    except (CallgrindError, StartError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(to_text(counts), nl=False)
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(counts), indent=2) + b"\n")


def count_instructions(proxy: str, at_once: Sequence[int], few: int, many: int) -> list[Counts]:
    """What one proxy takes with each number of clients; nothing of one that is not installed.

    Raises CallgrindError, StartError, and OSError where a client is not served.
    """
    with TemporaryDirectory(prefix="userproxy-bench-") as temporary, ExitStack() as stack:
        directory = Path(temporary)
        backend = stack.enter_context(answering())
        wrapped = partial(under_callgrind, directory=directory)
        log = directory / "proxy.log"
        if proxy == DATA:
            pid, address = stack.enter_context(data_process(wrapped, backend, log, _START_LIMIT))
        elif (program := peers()[proxy].program()) is None:
            click.echo(f"{proxy} is not installed", err=True)
            return []
        else:
            pid, address = stack.enter_context(_peer(proxy, program, wrapped, backend, directory))
        counter = Counter(pid, directory)
        return [_count(proxy, number, (pid, address), counter, (few, many)) for number in at_once]


@contextmanager
def _peer(
    proxy: str,
    program: str,
    wrapped: Callable[[Sequence[str]], Sequence[str]],
    backend: tuple[str, int],
    directory: Path,
) -> Iterator[Proxy]:
    own = directory / proxy
    own.mkdir()
    way = Way(free_port(), backend[:1], backend[1])
    log = directory / "proxy.log"
    with running(wrapped(peers()[proxy].command(program, own, way)), log) as process:
        address = "127.0.0.1", way.listen
        wait_until_served(address, process, log, _START_LIMIT, is_served)
        yield process.pid, address


def _count(proxy: str, at_once: int, where: Proxy, counter: Counter, runs: tuple[int, int]) -> Counts:
    pid, address = where
    each = [max(1, number // at_once) for number in runs]
    with ExitStack() as stack:
        clients = stack.enter_context(ThreadPoolExecutor(at_once))
        kept = [stack.enter_context(create_connection(address)) for _ in range(at_once)]
        requests = partial(_ask_all, clients, kept)
        connections = partial(_connect_all, clients, address, at_once)
        requests(each[0])
        connections(each[0])
        settled_cpu_seconds(pid)
        _counted(lambda: None, 0, counter)
        idle = _counted(lambda: time.sleep(_IDLE_SECONDS), 0, counter)
        found = [
            [_counted(partial(run, number), at_once * number, counter) for number in each]
            for run in (requests, connections)
        ]
    request, connection = (difference(few, many, idle) for few, many in found)
    return Counts(proxy, at_once, request, connection)


def _ask_all(clients: ThreadPoolExecutor, kept: Sequence[socket], requests: int) -> None:
    for _ in clients.map(ask_on, kept, repeat(requests)):
        pass


def _connect_all(clients: ThreadPoolExecutor, address: tuple[str, int], at_once: int, connections: int) -> None:
    for _ in clients.map(ask, repeat(address, at_once), repeat(connections), repeat(1)):
        pass


def _counted(run: Callable[[], None], pieces: int, counter: Counter) -> Run:
    """What is taken by a run that has so many pieces."""
    began = time.monotonic()
    run()
    time.sleep(_REST_SECONDS)
    return Run(pieces, counter.since(), time.monotonic() - began)


def difference(few: Run, many: Run, idle: Run) -> float:
    """The instructions for each piece of work, from those of a smaller and a larger run, and of one without work.

    What each run takes once is in neither, and what is done as time goes by, for timers, is left out.
    """
    by_time = idle.instructions / idle.seconds * (many.seconds - few.seconds)
    return (many.instructions - few.instructions - by_time) / (many.pieces - few.pieces)


def to_text(counts: Sequence[Counts]) -> str:
    """A line for each proxy and number of clients."""
    lines = [["user instructions", "at once", "request", "connection"]]
    lines += [[each.proxy, str(each.at_once), f"{each.request:,.0f}", f"{each.connection:,.0f}"] for each in counts]
    return "".join(f"{line}\n" for line in table(lines))
