"""``python -m examples.benchmarks portals``: what so many Services cost by each portal driver. Root only."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import msgspec

from examples.benchmarks.measure import MeasureError
from examples.benchmarks.portal_runs import DRIVERS, Change, Figures, Rounds, measure
from examples.benchmarks.processes import StartError
from examples.benchmarks.toolchain import find_program

KUBE_PROXY = {"iptables": 8.6, "nftables": 3.2}
"""Seconds that kube-proxy takes for a full sync of 5,000 Services, measured on two CPUs by mode."""

_PROGRAMS = {"iptables-legacy": "iptables-legacy", "iptables-nft": "iptables-nft"}
_CONSTANT = ("nftables", "local")
"""Drivers whose latency must not grow with the number of Services."""

_Cell = Callable[[Figures], float]
_COLUMNS: tuple[tuple[str, _Cell, int], ...] = (
    ("Services", lambda row: row.services, 0),
    ("serving, s", lambda row: row.start_s, 2),
    ("CPU, s", lambda row: row.start_cpu_s, 2),
    ("MB", lambda row: row.resident_mb, 0),
    ("added, ms", lambda row: _median(row.added).seen_ms, 1),
    ("sync, ms", lambda row: _median(row.added).sync_ms, 1),
    ("CPU, ms", lambda row: _median(row.added).cpu_ms, 1),
    ("removed, ms", lambda row: _median(row.removed).seen_ms, 1),
    ("sync, ms", lambda row: _median(row.removed).sync_ms, 1),
    ("CPU, ms", lambda row: _median(row.removed).cpu_ms, 1),
    ("connect, us", lambda row: row.connect_us, 0),
    ("answer, us", lambda row: row.answer_us, 0),
)


@click.command()
@click.option("--services", "sizes", type=int, multiple=True, default=(100, 1_000, 5_000, 10_000), show_default=True)
@click.option("--drivers", default=",".join(DRIVERS), show_default=True, help="Which, separated by commas.")
@click.option("--changes", default=9, show_default=True, help="Services that are added and removed, one by one.")
@click.option("--connections", default=1_000, show_default=True, help="New connections whose latency is taken.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Also write JSON here.")
def main(sizes: tuple[int, ...], drivers: str, changes: int, connections: int, json_file: Path | None) -> None:
    """Start, change and latency of `userproxy run` with so many Services, by each portal driver.

    In network namespaces of its own: nothing of the machine is touched.
    """
    program = find_program("userproxy")
    if program is None:
        raise click.ClickException("userproxy is not installed (pip install .)")
    figures = []
    for driver in drivers.split(","):
        if driver not in DRIVERS:
            raise click.ClickException(f"{driver!r} is none of {', '.join(DRIVERS)}")
        if driver in _PROGRAMS and find_program(_PROGRAMS[driver]) is None:
            click.echo(f"{_PROGRAMS[driver]} is not installed, so it is left out.", err=True)
            continue
        for size in sizes:
            click.echo(f"{driver}, {size} Services", err=True)
            try:
                figures.append(measure(program, driver, size, Rounds(changes, connections)))
            except (StartError, MeasureError, OSError) as error:
                raise click.ClickException(f"{driver}, {size} Services: {error}") from error
    click.echo(to_text(figures), nl=False)
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")


def to_text(figures: Sequence[Figures]) -> str:
    """One line a driver and size, and how latency grows."""
    lines = [["driver", *(heading for heading, _, _ in _COLUMNS)]]
    lines += [[row.driver, *(f"{cell(row):.{decimals}f}" for _, cell, decimals in _COLUMNS)] for row in figures]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    beside = ", ".join(f"{mode} {seconds} s" for mode, seconds in KUBE_PROXY.items())
    return "\n".join([*table, "", *_growth(figures), f"kube-proxy, a full sync of 5,000 Services: {beside}"]) + "\n"


def _growth(figures: Sequence[Figures]) -> list[str]:
    lines = []
    for driver in dict.fromkeys(row.driver for row in figures):
        rows = sorted((row for row in figures if row.driver == driver), key=lambda row: row.services)
        if len(rows) > 1:
            least, most = rows[0], rows[-1]
            aim = " (at most 1.2)" if driver in _CONSTANT else ""
            connect, answer = most.connect_us / least.connect_us, most.answer_us / least.answer_us
            what = f"{driver}, {most.services} Services over {least.services}"
            lines.append(f"{what}: connect {connect:.2f}, answer {answer:.2f}{aim}")
    return lines


def _median(changes: Sequence[Change]) -> Change:
    columns = zip(*(msgspec.structs.astuple(change) for change in changes), strict=True)
    return Change(*map(statistics.median, columns))


if __name__ == "__main__":
    main()
