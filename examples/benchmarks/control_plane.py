"""``python -m examples.benchmarks.control_plane``: what following a cluster costs, and how that grows with its size."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import msgspec
from msgspec import Struct, structs

from examples.benchmarks.control_server import ControlServer, Object, serving
from examples.benchmarks.measure import MeasureError, cpu_seconds, settled_cpu_seconds
from examples.benchmarks.pauses import NODE, Plan, Step, in_namespaces
from examples.benchmarks.processes import StartError, free_port, last_words, running
from examples.benchmarks.toolchain import find_program

ENDPOINTS = 10
"""In each slice, of which each Service has one."""

_START_LIMIT = 120.0
_COME_AND_GO = 6
"""Services that are added one after the other, and removed again."""

_PACE = 0.01
"""Seconds between two changed slices: each makes a sync of its own."""


class Figures(Struct, frozen=True):
    """What a cluster of so many Services costs. CPU is user and system time of userproxy alone.

    `steps` are measured with rules, and CPU there is that of iptables, too.
    """

    services: int
    start_cpu_s: float
    start_wall_s: float
    resident_mb: float
    change_cpu_ms: float
    idle_cpu_ms: float
    steps: tuple[Step, ...] = ()


_COLUMNS = (
    ("services", "Services", 0),
    ("start_cpu_s", "CPU to complete, s", 2),
    ("start_wall_s", "time to complete, s", 2),
    ("resident_mb", "resident, MB", 1),
    ("change_cpu_ms", "CPU/changed slice, ms", 3),
    ("idle_cpu_ms", "idle CPU, ms", 1),
)


@click.command()
@click.option("--services", "sizes", type=int, multiple=True, default=(1_000, 5_000, 10_000), show_default=True)
@click.option("--changes", default=200, show_default=True, help="Slices that change, one after the other.")
@click.option("--idle", default=10.0, show_default=True, help="Seconds without a change.")
@click.option("--variant", default="nft", show_default=True, help="Variant of iptables where rules are written.")
@click.option("--rules/--no-rules", default=True, help="Also with rules, and a client that waits; takes root.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Also write JSON here.")
def main(sizes: tuple[int, ...], changes: int, idle: float, variant: str, rules: bool, json_file: Path | None) -> None:
    """CPU and memory of `userproxy run` on an API server that has so many Services, with ten endpoints each.

    With rules, in a network namespace of its own, also the longest that a client waits while Services come and go,
    everything is listed again and rules are verified.
    """
    program = find_program("userproxy")
    if program is None:
        raise click.ClickException("userproxy is not installed (pip install .)")
    figures = []
    for size in sizes:
        click.echo(f"{size} Services", err=True)
        try:
            found = measure(program, size, changes, idle)
            figures.append(structs.replace(found, steps=pauses(program, size, variant)) if rules else found)
        except (StartError, MeasureError, OSError) as error:
            raise click.ClickException(f"{size} Services: {error}") from error
    click.echo(to_text(figures, changes, idle), nl=False)
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")


def measure(program: str, services: int, changes: int, idle: float) -> Figures:
    """Start userproxy on a cluster of its own, change slices, let it rest. Raises StartError or MeasureError."""
    objects = cluster(services)
    with TemporaryDirectory(prefix="userproxy-bench-") as temporary, serving(objects) as server:
        log = Path(temporary) / "log"
        began = time.monotonic()
        with running(command(program, Path(temporary), server.url), log) as process:
            wait(lambda: is_complete(process.pid, services), process, log)
            wall = time.monotonic() - began
            start_cpu = settled_cpu_seconds(process.pid)
            resident = resident_mb(process.pid)
            wait(lambda: server.watches("endpointslices") > 0, process, log)
            _change(server, objects["endpointslices"], changes)
            changed_cpu = settled_cpu_seconds(process.pid)
            time.sleep(idle)
            idle_cpu = cpu_seconds(process.pid) - changed_cpu
    return Figures(
        services, start_cpu, wall, resident, (changed_cpu - start_cpu) / max(changes, 1) * 1e3, idle_cpu * 1e3
    )


def pauses(program: str, services: int, variant: str) -> tuple[Step, ...]:
    """What changes cost and how long a client waits for them. Raises OSError, StartError or MeasureError."""
    objects = cluster(services)
    objects["endpointslices"][0]["endpoints"] = [{"addresses": [NODE], "conditions": {"ready": True}}]
    numbers = range(services, services + _COME_AND_GO)
    added = [{"services": _service(number), "endpointslices": endpoint_slice(number, ENDPOINTS)} for number in numbers]
    (address,) = objects["services"][0]["spec"]["clusterIPs"]

    def with_rules(directory: Path, url: str, options: Sequence[str]) -> tuple[str, ...]:
        return (*command(program, directory, url, "iptables"), *options)

    plan = Plan(with_rules, objects, added, f"{NODE}:8080", f"{address}:80", quiet=5.0, variant=variant)
    return tuple(in_namespaces(plan))


def cluster(services: int) -> dict[str, list[Object]]:
    """Services with a slice each, as an API server holds them, and one Node."""
    numbers = range(services)
    return {
        "services": [_service(number) for number in numbers],
        "endpointslices": [endpoint_slice(number, ENDPOINTS) for number in numbers],
        "nodes": [{"metadata": {"name": "node-1"}, "status": {"addresses": []}}],
    }


def to_text(figures: list[Figures], changes: int, idle: float) -> str:
    """One line a size, beneath what was done to it."""
    lines = [[heading for _, heading, _ in _COLUMNS]]
    lines += [[f"{getattr(row, key):.{decimals}f}" for key, _, decimals in _COLUMNS] for row in figures]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    head = f"userproxy --portals none; {ENDPOINTS} endpoints a slice, {changes} slices changed, {idle:g} s idle"
    return "\n".join([head, *table, *_steps_text(figures)]) + "\n"


def _steps_text(figures: list[Figures]) -> list[str]:
    """A block a size: each step beside the longest that a client waited meanwhile."""
    lines = []
    for row in figures:
        if row.steps:
            lines += [
                "",
                f"{row.services} Services, with rules{'CPU each, ms':>22}{'longest wait of a client, ms':>32}",
            ]
            lines += [f"  {step.name:<22}{step.cpu_ms:>22.1f}{step.longest_ms:>32.1f}" for step in row.steps]
    return lines


def command(program: str, directory: Path, url: str, portals: str = "none") -> tuple[str, ...]:
    """What runs userproxy on a server, with its files in a directory."""
    kubeconfig = write_kubeconfig(directory, url)
    return (
        *(program, "run", "--kubeconfig", str(kubeconfig), "--portals", portals, "--hostname-override", "node-1"),
        *("--iptables-min-sync-period", "0s", "--logging-format", "json"),
        *("--healthz-bind-address", f"127.0.0.1:{free_port()}", "--metrics-bind-address", f"127.0.0.1:{free_port()}"),
    )


def write_kubeconfig(directory: Path, url: str) -> Path:
    """A kubeconfig for a server that asks for nothing."""
    kubeconfig = directory / "kubeconfig"
    kubeconfig.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: bench\n"
        f"clusters: [{{name: bench, cluster: {{server: '{url}'}}}}]\n"
        "users: [{name: bench, user: {}}]\n"
        "contexts: [{name: bench, context: {cluster: bench, user: bench}}]\n"
    )
    return kubeconfig


def is_complete(pid: int, services: int) -> bool:
    """Whether each service port has its listener. What logs and metrics would tell costs CPU itself."""
    return len(os.listdir(f"/proc/{pid}/fd")) > services


def wait(condition: Callable[[], bool], process: subprocess.Popen[str], log: Path, limit: float = _START_LIMIT) -> None:
    """Return once this is so. Raises StartError where the process ends, or that takes more than `limit` seconds."""
    deadline = time.monotonic() + limit
    while process.poll() is not None or not condition():
        if process.returncode is not None:
            raise StartError(f"it ended with code {process.returncode}: {last_words(log)}")
        if time.monotonic() > deadline:
            raise StartError(f"it did not know the whole cluster within {limit:g} s: {last_words(log)}")
        time.sleep(0.05)


def _change(server: ControlServer, slices: list[Object], changes: int) -> None:
    for number in range(changes):
        index = number * max(len(slices) // max(changes, 1), 1) % len(slices)
        server.modify("endpointslices", endpoint_slice(index, ENDPOINTS - 1))
        time.sleep(_PACE)


def resident_mb(pid: int) -> float:
    """Resident memory of a process. Raises MeasureError where it has ended."""
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if found is None:
        raise MeasureError(f"process {pid} has no resident memory any longer")
    return int(found[1]) * 1024 / 1e6


def _service(number: int) -> Object:
    address = f"10.{96 + number // 65536}.{number // 256 % 256}.{number % 256}"
    return {
        "metadata": {
            **_metadata(f"service-{number}"),
            "labels": {"app": f"service-{number}", "app.kubernetes.io/part-of": "bench"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "clusterIPs": [address],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None",
            "selector": {"app": f"service-{number}"},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
        },
        "status": {"loadBalancer": {}},
    }


def endpoint_slice(number: int, endpoints: int) -> Object:
    """The slice of a Service by its number."""
    owner = f"service-{number}"
    return {
        "metadata": {
            **_metadata(f"{owner}-abcde"),
            "labels": {"kubernetes.io/service-name": owner, "app.kubernetes.io/part-of": "bench"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [_endpoint(number, index) for index in range(endpoints)],
    }


def _endpoint(number: int, index: int) -> Object:
    return {
        "addresses": [f"10.{128 + index}.{number // 256 % 256}.{number % 256}"],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": f"node-{number % 100}",
        "zone": "zone-a",
        "targetRef": {"kind": "Pod", "namespace": "default", "name": f"service-{number}-{index}"},
    }


def _metadata(name: str) -> Object:
    return {"namespace": "default", "name": name, "creationTimestamp": "2026-01-01T00:00:00Z"}


if __name__ == "__main__":
    main()
