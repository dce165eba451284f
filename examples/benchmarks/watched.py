"""``python -m examples.benchmarks watched``: what it costs that somebody watches what userproxy does."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import msgspec

from examples.benchmarks.measure import Sample, ratios, spreads
from examples.benchmarks.peers import Way, userproxy_command
from examples.benchmarks.processes import StartError, free_port, last_words, running, wait_until_served
from examples.benchmarks.report import cell, table
from examples.benchmarks.scenarios import BACKENDS, Bench, LoadError, Scenario, backend, put_under_load
from examples.benchmarks.toolchain import BuildError, build, find_program

NOBODY = "nobody"
WATCHES: dict[str, tuple[str, ...]] = {
    NOBODY: (),
    "observe -f": ("observe", "-f"),
    "get connections -w": ("get", "connections", "-w"),
}
"""Who watches, and the command that does."""

METRICS = {"rate": "connections/s", "cpu_us": "CPU/connection, us"}
_START_LIMIT = 20.0


@click.command()
@click.option("--rounds", type=click.IntRange(1, 100), default=9, show_default=True, help="Rounds.")
@click.option("--connections", default=5_000, show_default=True, help="Connections a measurement, 16 at once.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Also write JSON here.")
def main(rounds: int, connections: int, json_file: Path | None) -> None:
    """Rate and CPU of short connections while nobody watches, beside `observe -f`, and beside `get connections -w`.

    One userproxy, on loopback. In a round each has its turn; ratios are taken within rounds.
    """
    try:
        samples = measure(rounds, connections)
    except (BuildError, StartError, LoadError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(to_text(samples), nl=False)
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(samples), indent=2) + b"\n")


def measure(rounds: int, connections: int) -> list[Sample]:
    """A sample for each way of watching and round. Raises BuildError, StartError and LoadError."""
    program = find_program("userproxy")
    if program is None:
        raise StartError("userproxy is not installed: pip install .")
    load = build("load")
    scenario = Scenario("connection", 16, connections, warm_up=connections // 5, reconnect=True)
    with TemporaryDirectory(prefix="userproxy-bench-") as temporary, ExitStack() as stack:
        directory = Path(temporary)
        way = Way(free_port(), BACKENDS, stack.enter_context(backend(load, directory)))
        admin, log = directory / "admin.sock", directory / "proxy.log"
        manifests = directory / "manifests"
        manifests.mkdir()
        command = (*userproxy_command(program, manifests, way), "--admin-socket", str(admin))
        proxy = stack.enter_context(running(command, log))
        wait_until_served(("127.0.0.1", way.listen), proxy, log, _START_LIMIT)
        samples = []
        for number in range(1, rounds + 1):
            for name, watch in WATCHES.items():
                with _watching(program, watch, admin, directory):
                    result, cpu = put_under_load(scenario, proxy.pid, Bench(load, directory, way))
                figures = {"rate": result.requests / result.seconds, "cpu_us": cpu / result.requests * 1e6}
                samples.append(Sample(number, name, figures))
        return samples


def to_text(samples: Sequence[Sample]) -> str:
    """A line for each way of watching: medians, and how they compare with nobody watching."""
    lines = [["watched by", *METRICS.values(), *(f"{text.split(',')[0]}: of {NOBODY}'s" for text in METRICS.values())]]
    for name, row in spreads(samples, METRICS).items():
        compared = ratios(samples, name, tuple(METRICS)).get(NOBODY, {})
        figures = [cell(row[metric], 0 if metric == "rate" else 1) for metric in METRICS]
        lines.append([name, *figures, *(cell(compared[metric], 2) if compared else "" for metric in METRICS)])
    return "".join(f"{line}\n" for line in table(lines))


@contextmanager
def _watching(program: str, watch: Sequence[str], admin: Path, directory: Path) -> Iterator[None]:
    """The command that watches runs, if there is one, and has not been cut off at the end. Raises LoadError."""
    if not watch:
        yield
        return
    log = directory / "watch.log"
    with running((program, *watch, "--admin-socket", str(admin)), log) as watching:
        yield
        if watching.poll() is not None:
            raise LoadError(f"userproxy {' '.join(watch)} has ended: {last_words(log)}")
