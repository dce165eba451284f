"""``python -m examples.benchmarks change``: the user instructions of a changed EndpointSlice, counted by callgrind."""

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from examples.benchmarks.callgrind import CallgrindError, Counter, under_callgrind
from examples.benchmarks.control_plane import ENDPOINTS, cluster, command, endpoint_slice, is_complete, wait
from examples.benchmarks.control_server import ControlServer, serving
from examples.benchmarks.instructions import Run, difference
from examples.benchmarks.measure import MeasureError, settled_cpu_seconds
from examples.benchmarks.processes import StartError, running
from examples.benchmarks.toolchain import find_program

_SERVICES = 300
"""What a change takes does not depend on how many there are, and a start under callgrind does."""

_PACE = 0.06
"""Seconds between two changes, in which one is done under callgrind, too: so each comes alone."""

_REST_SECONDS = 0.5
_IDLE_SECONDS = 4.0
_START_LIMIT = 600.0


@click.command()
@click.option("--few", default=40, show_default=True, help="Changes of the smaller run.")
@click.option("--many", default=160, show_default=True, help="Those of the larger run.")
def main(few: int, many: int) -> None:
    """User instructions that one process takes for a changed EndpointSlice of ten endpoints, which loses one.

    From the bytes that come to endpoints that are in force: the difference of a smaller and a larger run, divided by
    that of their changes. What the kernel does is not counted. Data processes cannot be started under valgrind.
    """
    if not 0 < few < many or 2 * few + many > _SERVICES:
        raise click.BadParameter(f"--few {few}, --many {many}: 0 < few < many is needed, and {_SERVICES} in all")
    program = find_program("userproxy")
    if program is None:
        raise click.ClickException("userproxy is not installed (pip install .)")
    try:
        counted = count(program, few, many)
    except (CallgrindError, StartError, MeasureError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{counted:,.0f} user instructions for a changed slice")


def count(program: str, few: int, many: int) -> float:
    """The instructions of one change. Raises CallgrindError, StartError, MeasureError and OSError."""
    with TemporaryDirectory(prefix="userproxy-bench-") as temporary, serving(cluster(_SERVICES)) as server:
        directory = Path(temporary)
        log = directory / "log"
        with running(under_callgrind(command(program, directory, server.url), directory), log) as process:
            wait(lambda: is_complete(process.pid, _SERVICES), process, log, _START_LIMIT)
            settled_cpu_seconds(process.pid)
            wait(lambda: server.watches("endpointslices") > 0, process, log)
            counter = Counter(process.pid, directory)
            _counted(server, range(few), counter)
            began = time.monotonic()
            time.sleep(_IDLE_SECONDS)
            idle = Run(0, counter.since(), time.monotonic() - began)
            small = _counted(server, range(few, 2 * few), counter)
            large = _counted(server, range(2 * few, 2 * few + many), counter)
    return difference(small, large, idle)


def _counted(server: ControlServer, indices: Sequence[int], counter: Counter) -> Run:
    began = time.monotonic()
    for index in indices:
        server.modify("endpointslices", endpoint_slice(index, ENDPOINTS - 1))
        time.sleep(_PACE)
    time.sleep(_REST_SECONDS)
    return Run(len(indices), counter.since(), time.monotonic() - began)
