"""The command: measures each proxy in turn, round after round, and prints medians and ratios."""

import os
import platform
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import FrameType

import click

from examples.benchmarks.interpreter import interpreter
from examples.benchmarks.measure import Sample
from examples.benchmarks.peers import USUAL, Network, Peer, peers
from examples.benchmarks.plot import PlotError, plot
from examples.benchmarks.report import Report, make_report, to_json, to_text
from examples.benchmarks.scenarios import scenarios, take_turn
from examples.benchmarks.toolchain import BuildError, build

DEFAULT_ROUNDS = 5
QUICK_ROUNDS = 2
_LOADS = tuple(scenario.name for scenario in scenarios(quick=False))


def _several(known: Iterable[str]) -> Callable[[click.Context, click.Parameter, str], tuple[str, ...]]:
    """Reads some of `known`, separated by commas."""
    choices = tuple(known)

    def read(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(value.split(",")))
        for name in names:
            if name not in choices:
                raise click.BadParameter(f"{name!r} is none of {', '.join(choices)}")
        return names

    return read


@click.command()
@click.option("--rounds", type=click.IntRange(1, 100), help="Rounds (5, or 2 with --quick).")
@click.option(
    "--proxies",
    "names",
    default=",".join(USUAL),
    show_default=True,
    callback=_several(peers()),
    help="Proxies in their order; the first is compared with each other.",
)
@click.option(
    "--only",
    "loads",
    default=",".join(_LOADS),
    show_default=True,
    callback=_several(_LOADS),
    help="Which loads to put on them.",
)
@click.option("--quick", is_flag=True, help="Small loads: shows that everything works, figures are noisy.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Also write JSON here.")
@click.option(
    "--plot", "picture", type=click.Path(path_type=Path, dir_okay=False), help="Also draw a PNG (matplotlib)."
)
def main(
    rounds: int | None,
    names: tuple[str, ...],
    loads: tuple[str, ...],
    quick: bool,
    json_file: Path | None,
    picture: Path | None,
) -> None:
    """CPU and latency of userproxy, HAProxy, nginx stream and a Go proxy, on loopback."""
    signal.signal(signal.SIGTERM, _end)
    try:
        report = _run(rounds or (QUICK_ROUNDS if quick else DEFAULT_ROUNDS), names, loads, quick=quick)
    except BuildError as error:
        raise click.ClickException(str(error)) from error
    click.echo(to_text(report), nl=False)
    if json_file is not None:
        json_file.write_bytes(to_json(report))
    if picture is not None:
        try:
            plot(report, picture)
        except PlotError as error:
            raise click.ClickException(str(error)) from error
    sys.exit(1 if report.failures else 0)


def _end(number: int, _frame: FrameType | None) -> None:
    """Leave as after Ctrl-C, through every clean-up."""
    raise SystemExit(128 + number)


def _run(rounds: int, names: Sequence[str], loads: Sequence[str], *, quick: bool) -> Report:
    wanted = [scenario for scenario in scenarios(quick=quick) if scenario.name in loads]
    programs, left_out = _find(names, {scenario.network for scenario in wanted})
    for sentence in left_out:
        click.echo(sentence, err=True)
    if not programs:
        raise click.ClickException("none of the proxies is installed")
    load = build("load")
    samples: list[Sample] = []
    failures: list[str] = []
    for number in range(1, rounds + 1):
        for peer, program in programs:
            click.echo(f"round {number} of {rounds}: {peer.name}", err=True)
            outcome = take_turn(peer, program, load, wanted)
            samples.append(Sample(number, peer.name, outcome.values))
            failures += (f"{peer.name}, round {number}, {failure}" for failure in outcome.failures)
    return make_report(
        machine=_machine(),
        rounds=rounds,
        quick=quick,
        subject=programs[0][0].name,
        versions={peer.name: f"{peer.title}: {peer.version_text()}" for peer, _ in programs},
        samples=samples,
        left_out=left_out,
        failures=failures,
    )


def _find(names: Sequence[str], networks: set[Network]) -> tuple[list[tuple[Peer, str]], list[str]]:
    found: list[tuple[Peer, str]] = []
    left_out: list[str] = []
    for name in names:
        peer = peers()[name]
        program = peer.program()
        if not networks.intersection(peer.networks):
            left_out.append(f"{name} does not carry {' or '.join(sorted(networks)).upper()}, so it is left out.")
        elif program is None:
            left_out.append(f"{name} is not installed ({peer.source}), so it is left out.")
        else:
            found.append((peer, program))
    return found, left_out


def _machine() -> str:
    return f"Linux {platform.release()}, {platform.machine()}, {os.cpu_count()} CPUs, loopback; {interpreter()}"
