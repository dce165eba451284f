"""``python -m examples.benchmarks everything``: all that docs/performance.md shows, in files and in bounded time."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
from msgspec import Struct

from examples.benchmarks.interpreter import interpreter
from userproxy import __version__

_BUSY = 1.3
"""A load average, for each CPU, above which others had a share of the machine: the benchmark itself makes about one."""


class Part(Struct, frozen=True):
    """One of the benchmarks, with its arguments, and the seconds that it may take."""

    name: str
    arguments: tuple[str, ...]
    limit: float
    needs_root: bool = False
    json: bool = True


_GROWTH = ("growth", "--rounds", "1")

PARTS = (
    Part("proxies", ("--rounds", "3", "--proxies", "userproxy,userproxy-1,userproxy-2,haproxy,nginx,go"), 900),
    Part("system_calls", ("system_calls",), 120, json=False),
    Part("instructions", ("instructions",), 300),
    Part("growth", (*_GROWTH, "--connections", "1,100,8000"), 300),
    Part(
        "idle",
        ("growth", "--rounds", "1", "--connections", "15000", "--proxies", "userproxy-2", "--services", "1"),
        120,
    ),
    Part("workers", ("workers", "--rounds", "3"), 600),
    Part("control_plane", ("control_plane", "--services", "10000", "--no-rules"), 120),
    Part("start", ("start", "--rounds", "3"), 240, needs_root=True),
    Part("undisturbed", ("undisturbed", "--rounds", "3"), 600, needs_root=True),
)
"""In about half an hour on a quiet machine; in fifty minutes at most."""


class Outcome(Struct, frozen=True):
    """What became of a part: its output, or why there is none, and the load averages before and after."""

    part: Part
    text: str
    failure: str
    seconds: float
    before: float
    after: float


@click.command()
@click.option("--directory", type=click.Path(path_type=Path), default=Path("bench-report"), show_default=True)
@click.option("--only", default=",".join(part.name for part in PARTS), show_default=True, help="Which parts.")
@click.option("--plot/--no-plot", default=True, help="Draw the proxies' figures as a PNG, too (matplotlib).")
def main(directory: Path, only: str, plot: bool) -> None:
    """Run all benchmarks, each within a time limit, and write `report.md` and the figures as JSON into DIRECTORY.

    The report says how busy the machine was. Parts that take root are left out for others. The exit code is 1 where a
    part failed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    names = only.split(",")
    if unknown := set(names) - {part.name for part in PARTS}:
        raise click.BadParameter(f"there is no part {', '.join(sorted(unknown))}")
    outcomes: list[Outcome] = []
    for part in PARTS:
        if part.name in names:
            click.echo(f"{part.name}, at most {part.limit:g} s", err=True)
            outcomes.append(run(part, directory, plot=plot))
            (directory / "report.md").write_text(to_text(outcomes))
    click.echo(f"written: {directory / 'report.md'}")
    sys.exit(1 if any(each.failure for each in outcomes) else 0)


def run(part: Part, directory: Path, *, plot: bool = False) -> Outcome:
    """Run a part in a process of its own. What it could not do is said in its outcome."""
    before, began = os.getloadavg()[0], time.monotonic()
    text, failure = "", ""
    if part.needs_root and os.geteuid():
        failure = "left out: it takes root"
    else:
        command = _command(part, directory, plot=plot)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=part.limit, check=False)
        except subprocess.TimeoutExpired:
            failure = f"not done within {part.limit:g} s"
        else:
            text = done.stdout
            failure = "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it failed"])[-1]
    return Outcome(part, text, failure, time.monotonic() - began, before, os.getloadavg()[0])


def _command(part: Part, directory: Path, *, plot: bool) -> Sequence[str]:
    command = [sys.executable, "-m", "examples.benchmarks", *part.arguments]
    if part.json:
        command += ["--json", str(directory / f"{part.name}.json")]
    if plot and part.name == "proxies":
        command += ["--plot", str(directory / "proxies.png")]
    return command


def to_text(outcomes: Sequence[Outcome]) -> str:
    """The report in Markdown."""
    versions = f"userproxy {__version__}, Linux {platform.release()}"
    lines = [f"# Benchmarks: {versions}, {os.cpu_count()} CPUs; {interpreter()}", ""]
    for each in outcomes:
        busiest = max(each.before, each.after) / (os.cpu_count() or 1)
        note = f"load average {each.before:.1f} before, {each.after:.1f} after"
        lines += [f"## {each.part.name}", "", f"`python -m examples.benchmarks {' '.join(each.part.arguments)}`", ""]
        lines += [f"{each.seconds:.0f} s; {note}{': **a busy machine**' if busiest > _BUSY else ''}", ""]
        if each.failure:
            lines += [f"Failed: {each.failure}", ""]
        if each.text:
            lines += ["```", each.text.rstrip(), "```", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
