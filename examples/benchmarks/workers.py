"""``python -m examples.benchmarks workers``: what userproxy carries, and its CPU, by its number of data processes."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import msgspec

from examples.benchmarks.growth import Numbers
from examples.benchmarks.measure import MeasureError, Sample, ratios, resident_bytes, spreads
from examples.benchmarks.peers import Way, userproxy_command
from examples.benchmarks.processes import StartError, free_port, running, wait_until_served
from examples.benchmarks.report import cell, table
from examples.benchmarks.scenarios import BACKENDS, Bench, LoadError, Scenario, backend, put_under_load
from examples.benchmarks.toolchain import BuildError, build, find_program

METRICS = {
    "requests": "requests/s",
    "request_cpu_us": "CPU/request, us",
    "request_p99_us": "p99, us",
    "connections": "connections/s",
    "connection_cpu_us": "CPU/connection, us",
    "resident_mb": "resident, MB",
}
_DECIMALS = {"requests": 0, "connections": 0, "request_p99_us": 0}
_START_LIMIT = 20.0
_LOOPS = ("uvloop", "asyncio")


@click.command()
@click.option("--workers", type=Numbers(0), default="0,1,2,4", show_default=True, help="Data processes.")
@click.option("--loops", default=",".join(_LOOPS), show_default=True, help="Event loops.")
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True, help="Rounds.")
@click.option(
    "--requests", default=50_000, show_default=True, help="Requests a measurement, a tenth as many connections."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Also write JSON here.")
def main(workers: tuple[int, ...], loops: str, rounds: int, requests: int, json_file: Path | None) -> None:
    """How many requests and connections a second userproxy carries, and their CPU, by data processes and event loop.

    64 clients ask as fast as they are answered, then 16 connect as fast as they can. In a round each has its turn;
    ratios are taken within rounds, to the first. Client and backend share the CPUs.
    """
    chosen = loops.split(",")
    if not set(chosen) <= set(_LOOPS):
        raise click.BadParameter(f"{loops!r} names others than {', '.join(_LOOPS)}")
    try:
        samples = [
            _sample(number, count, loop, requests)
            for number in range(1, rounds + 1)
            for count, loop in product(workers, chosen)
        ]
    except (BuildError, StartError, LoadError, MeasureError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(to_text(samples), nl=False)
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(samples), indent=2) + b"\n")


def _sample(number: int, workers: int, loop: str, requests: int) -> Sample:
    """What a userproxy of its own carries. Raises BuildError, StartError, LoadError and MeasureError."""
    program = find_program("userproxy")
    if program is None:
        raise StartError("userproxy is not installed: pip install .")
    load = build("load")
    with TemporaryDirectory(prefix="userproxy-bench-") as temporary:
        directory = Path(temporary)
        manifests, log = directory / "manifests", directory / "proxy.log"
        manifests.mkdir()
        with backend(load, directory) as port:
            way = Way(free_port(), BACKENDS, port)
            command = (
                *userproxy_command(program, manifests, way, workers),
                *("--event-loop", loop, "--admin-socket", str(directory / "admin.sock")),
            )
            with running(command, log) as proxy:
                wait_until_served(("127.0.0.1", way.listen), proxy, log, _START_LIMIT)
                values = _carried(proxy.pid, Bench(load, directory, way), requests)
    return Sample(number, f"{workers}, {loop}", values)


def _carried(proxy: int, bench: Bench, requests: int) -> dict[str, float]:
    kept, request_cpu = put_under_load(Scenario("keepalive", 64, requests, warm_up=requests // 10), proxy, bench)
    short = Scenario("connection", 16, requests // 10, warm_up=requests // 100, reconnect=True)
    opened, connection_cpu = put_under_load(short, proxy, bench)
    return {
        "requests": kept.requests / kept.seconds,
        "request_cpu_us": request_cpu / kept.requests * 1e6,
        "request_p99_us": kept.p99_us,
        "connections": opened.requests / opened.seconds,
        "connection_cpu_us": connection_cpu / opened.requests * 1e6,
        "resident_mb": resident_bytes(proxy) / 1e6,
    }


def to_text(samples: Sequence[Sample]) -> str:
    """Medians by data processes and event loop, then ratios to the first of them."""
    found, first = spreads(samples, tuple(METRICS)), samples[0].proxy
    rows = [["data processes, loop", *METRICS.values()]]
    rows += [
        [name, *(cell(values.get(key), _DECIMALS.get(key, 1)) for key in METRICS)] for name, values in found.items()
    ]
    compared = [[f"divided by {first}", *METRICS.values()]]
    for name in found:
        to_first = ratios(samples, name, tuple(METRICS)).get(first)
        if to_first is not None:
            compared.append([name, *(cell(to_first.get(key), 2) for key in METRICS)])
    return "\n".join([*table(rows), "", *table(compared)]) + "\n"


if __name__ == "__main__":
    main()
