"""``python -m examples.benchmarks system_calls``: those of a request, of a connection and of a UDP round trip."""

import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import msgspec
from msgspec import Struct

from examples.benchmarks.measure import pids
from examples.benchmarks.peers import Network, Peer, Way, peers
from examples.benchmarks.processes import StartError, free_port, last_words, running, wait_until_served
from examples.benchmarks.report import table
from examples.benchmarks.scenarios import ANSWERS, BACKENDS, Bench, LoadError, Scenario, backend, put_under_load
from examples.benchmarks.toolchain import BuildError, build, find_program

_START_LIMIT = 20.0
_REQUESTS = 20_000
_LEAST = 0.05
"""Calls a request below which a kind is not printed by itself."""


def loads(requests: int = _REQUESTS) -> dict[str, Scenario]:
    """What is counted of, and the load that does it so often; connections are a quarter of that."""
    return {
        "request": Scenario("keepalive", 64, requests, warm_up=2_000),
        "connection": Scenario("connection", 16, requests // 4, warm_up=500, reconnect=True),
        "round trip": Scenario("udp", 32, requests, warm_up=2_000, size=64, network=Network.UDP),
    }


class Counts(Struct, frozen=True):
    """System calls per request, connection or UDP round trip of one proxy, by their names."""

    proxy: str
    load: str
    calls: dict[str, float]


@click.command()
@click.option("--proxies", default="userproxy,haproxy,nginx,go", show_default=True, help="Which, in which order.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Also write JSON here.")
def main(proxies: str, json_file: Path | None) -> None:
    """System calls per request, per connection and per UDP round trip, counted by strace on loopback.

    strace slows the traced process down, so that each wake-up finds more to do: counts are a lower bound.
    """
    if find_program("strace") is None:
        raise click.ClickException("strace is not installed (Debian package strace)")
    known = peers()
    try:
        counts = [
            each
            for name in proxies.split(",")
            if name in known and (program := known[name].program()) is not None
            for each in count_calls(known[name], program)
        ]
    except (BuildError, StartError, LoadError) as error:
        raise click.ClickException(str(error)) from error
    for load in loads():
        click.echo(to_text(load, [each for each in counts if each.load == load]))
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(counts), indent=2) + b"\n")


def count_calls(peer: Peer, program: str, requests: int = _REQUESTS) -> list[Counts]:
    """What one proxy calls under each load that it can carry. Raises BuildError, StartError and LoadError."""
    return [each for network in peer.networks for each in _count_calls(peer, program, requests, network)]


def _count_calls(peer: Peer, program: str, requests: int, network: Network) -> list[Counts]:
    load = build("load")
    with TemporaryDirectory(prefix="userproxy-bench-") as temporary, ExitStack() as stack:
        directory = Path(temporary)
        own = directory / peer.name
        own.mkdir()
        way = Way(free_port(), BACKENDS, stack.enter_context(backend(load, directory, network)), network)
        log = directory / "proxy.log"
        proxy = stack.enter_context(running(peer.command(program, own, way), log))
        wait_until_served(("127.0.0.1", way.listen), proxy, log, _START_LIMIT, ANSWERS[network])
        bench = Bench(load, directory, way)
        wanted = ((name, scenario) for name, scenario in loads(requests).items() if scenario.network is network)
        return [_count(peer.name, name, scenario, proxy.pid, bench) for name, scenario in wanted]


def _count(proxy_name: str, name: str, scenario: Scenario, proxy: int, bench: Bench) -> Counts:
    found = bench.directory / f"{name}.strace"
    with ExitStack() as stack:

        def trace() -> None:
            stack.enter_context(_traced(proxy, found, bench.directory / "strace.log"))

        result, _ = put_under_load(scenario, proxy, bench, trace)
    calls = {call: count / result.requests for call, count in parse(found.read_text()).items()}
    return Counts(proxy_name, name, calls)


@contextmanager
def _traced(proxy: int, found: Path, log: Path) -> Iterator[None]:
    """strace counts the calls of a process and its children, until the context is left. Raises StartError."""
    members = [argument for pid in pids(proxy) for argument in ("-p", str(pid))]
    with running(("strace", "-f", "-c", "-U", "name,calls", "-o", str(found), *members), log) as strace:
        deadline = time.monotonic() + _START_LIMIT
        while log.read_text().count(" attached") < len(members) // 2:
            if strace.poll() is not None or time.monotonic() > deadline:
                raise StartError(f"strace does not attach: {last_words(log)}")
            time.sleep(0.02)
        yield
        strace.send_signal(signal.SIGINT)
        try:
            strace.wait(_START_LIMIT)
        except subprocess.TimeoutExpired as error:
            raise StartError("strace does not end") from error


def parse(summary: str) -> dict[str, int]:
    """The table of ``strace -c -U name,calls`` as call -> count, without its total."""
    counts: dict[str, int] = {}
    for line in summary.splitlines():
        fields = line.split()
        if len(fields) == 2 and fields[1].isdigit() and fields[0] != "total":
            counts[fields[0]] = int(fields[1])
    return counts


def to_text(load: str, counts: list[Counts]) -> str:
    """A line for each kind of call, a column for each proxy, the rare ones summed."""
    kinds = sorted({kind for each in counts for kind, count in each.calls.items() if count >= _LEAST})
    lines = [[f"calls/{load}", *(each.proxy for each in counts)]]
    lines += [[kind, *(f"{each.calls.get(kind, 0.0):.2f}" for each in counts)] for kind in kinds]
    lines.append(["others", *(f"{_rest(each.calls, kinds):.2f}" for each in counts)])
    lines.append(["all", *(f"{sum(each.calls.values()):.2f}" for each in counts)])
    return "".join(f"{line}\n" for line in table(lines))


def _rest(calls: Mapping[str, float], kinds: list[str]) -> float:
    return sum(count for kind, count in calls.items() if kind not in kinds)
