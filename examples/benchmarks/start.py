"""``python -m examples.benchmarks start``: from the start of a process until all portals serve. Root only."""

import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import msgspec

from examples.benchmarks.control_plane import cluster, write_kubeconfig
from examples.benchmarks.control_server import Object, serving
from examples.benchmarks.measure import MeasureError, Sample, cpu_seconds, resident_bytes, spreads
from examples.benchmarks.pauses import NODE
from examples.benchmarks.processes import StartError, last_words, running
from examples.benchmarks.report import cell, table
from examples.benchmarks.toolchain import find_program
from examples.benchmarks.undisturbed import WAIT_LIMIT, enter_node, ready_socket, until_ready
from userproxy.portals.host import ipv6_usable

MANIFESTS, API = "manifests", "api"
METRICS = {"wall_s": "seconds", "cpu_s": "CPU seconds", "resident_mb": "resident, MB"}
_ENDPOINTS = 2
_HEADS = {
    "services": {"apiVersion": "v1", "kind": "Service"},
    "endpointslices": {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice"},
}


@click.command()
@click.option("--services", default=5_000, show_default=True, help="Services with one slice of two endpoints each.")
@click.option("--sources", default=f"{MANIFESTS},{API}", show_default=True, help="Where they come from.")
@click.option("--portals", default="none,nftables,iptables", show_default=True, help="Drivers.")
@click.option("--workers", default=0, show_default=True, help="Data processes.")
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True, help="Rounds.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Also write JSON here.")
def main(services: int, sources: str, portals: str, workers: int, rounds: int, json_file: Path | None) -> None:
    """How long `userproxy run` takes from the start of its process until its portals stand (sd_notify's READY=1).

    Manifests are one file of JSON; the API server is on loopback, has everything rendered, and shares the CPUs. CPU
    is that of userproxy and its programs. Which phase takes how long, `userproxy run -v 1` says itself. A first start,
    which compiles all modules as `pip install` would, is not counted.
    """
    program = find_program("userproxy")
    if program is None:
        raise click.ClickException("userproxy is not installed (pip install .)")
    samples = []
    with ThreadPoolExecutor(max_workers=1) as threads:  # it is a thread that enters namespaces, and they end with it
        try:
            threads.submit(enter_node).result()
            threads.submit(measure, program, MANIFESTS, 1, ("--portals", "none", "--workers", str(workers))).result()
            for number in range(1, rounds + 1):
                for driver, source in product(portals.split(","), sources.split(",")):
                    options = ("--portals", driver, "--workers", str(workers))
                    values = threads.submit(measure, program, source, services, options).result()
                    samples.append(Sample(number, f"{driver}, {source}", values))
        except (StartError, MeasureError, OSError, subprocess.CalledProcessError) as error:
            raise click.ClickException(str(error)) from error
    click.echo(to_text(samples), nl=False)
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(samples), indent=2) + b"\n")


def measure(program: str, source: str, services: int, options: Sequence[str]) -> dict[str, float]:
    """What one start takes. Raises StartError and MeasureError."""
    with TemporaryDirectory(prefix="userproxy-bench-") as temporary:
        directory = Path(temporary)
        log = directory / "log"
        with _sourced(directory, source, services) as where, ready_socket(directory / "ready") as (told, environment):
            command = (
                *("env", *environment, program, "run", *where, *options, "--hostname-override", "node-1"),
                *("--healthz-bind-address", "127.0.0.1:10256", "--metrics-bind-address", "127.0.0.1:10249"),
                *("--logging-format", "json", "--admin-socket", str(directory / "admin.sock")),
                *("--local-ports-file", str(directory / "local-ports")),
            )
            began = time.monotonic()
            with running(command, log) as process:
                try:
                    for _ in range(2 if ipv6_usable() else 1):  # each family says so
                        until_ready(told)
                except TimeoutError as error:
                    raise StartError(f"it does not serve within {WAIT_LIMIT:g} s: {last_words(log)}") from error
                wall = time.monotonic() - began
                return {
                    "wall_s": wall,
                    "cpu_s": cpu_seconds(process.pid),
                    "resident_mb": resident_bytes(process.pid) / 1e6,
                }


@contextmanager
def _sourced(directory: Path, source: str, services: int) -> Iterator[tuple[str, ...]]:
    """The flags that name a source of so many Services, which is there meanwhile."""
    objects = _cluster(services)
    if source == API:
        with serving(objects) as server:
            yield "--kubeconfig", str(write_kubeconfig(directory, server.url))
        return
    manifests = directory / "manifests"
    manifests.mkdir()
    items = [{**head, **item} for plural, head in _HEADS.items() for item in objects[plural]]
    (manifests / "all.json").write_bytes(msgspec.json.encode({"apiVersion": "v1", "kind": "List", "items": items}))
    yield "--manifests", str(manifests)


def _cluster(services: int) -> dict[str, list[Object]]:
    objects = cluster(services)
    for each in objects["endpointslices"]:
        each["endpoints"] = each["endpoints"][:_ENDPOINTS]
    objects["nodes"][0]["status"]["addresses"] = [{"type": "InternalIP", "address": NODE}]
    return objects


def to_text(samples: Sequence[Sample]) -> str:
    """A line for each driver and source: medians over the rounds."""
    rows = [["driver, source", *METRICS.values()]]
    for name, values in spreads(samples, tuple(METRICS)).items():
        decimals = {"resident_mb": 0}
        rows.append([name, *(cell(values.get(key), decimals.get(key, 2)) for key in METRICS)])
    return "\n".join(table(rows)) + "\n"


if __name__ == "__main__":
    main()
