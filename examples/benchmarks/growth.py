"""``python -m examples.benchmarks growth``: how cost grows with the number of connections, and of Services."""

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import msgspec

from examples.benchmarks.measure import Sample, descriptors, resident_bytes, spreads
from examples.benchmarks.peers import Peer, Way, peers, userproxy_command
from examples.benchmarks.processes import StartError, free_port, running, wait_until_served
from examples.benchmarks.report import cell, table
from examples.benchmarks.scenarios import BACKENDS, Bench, LoadError, Scenario, backend, put_under_load
from examples.benchmarks.toolchain import BuildError, build, find_program

_START_LIMIT = 60.0
_REQUESTS = 20_000

OF_CONNECTIONS = {
    "request_cpu_us": "CPU/request, us",
    "resident_kb": "resident KB/connection",
    "descriptors": "descriptors/connection",
}
OF_SERVICES = {
    "request_cpu_us": "CPU/request, us",
    "connection_cpu_us": "CPU/connection, us",
    "resident_mb": "resident MB",
}


class Numbers(click.ParamType[tuple[int, ...]]):
    """Numbers of at least `least`, separated by commas."""

    name = "N,..."

    def __init__(self, least: int = 1) -> None:
        self._least = least

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        try:
            numbers = tuple(int(each) for each in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of numbers", param, ctx)
        if min(numbers) < self._least:
            self.fail(f"{value!r} has a number below {self._least}", param, ctx)
        return numbers


@click.command()
@click.option("--connections", type=Numbers(), default="1,100,8000", show_default=True, help="Kept connections.")
@click.option("--services", type=Numbers(), default="1,1000,10000", show_default=True, help="Services of userproxy.")
@click.option("--proxies", default="userproxy,haproxy", show_default=True, help="For the growth with connections.")
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="Rounds.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Also write JSON here.")
def main(
    connections: tuple[int, ...], services: tuple[int, ...], proxies: str, rounds: int, json_file: Path | None
) -> None:
    """CPU of a request and memory of a connection with few and many connections, and with few and many Services.

    Each idle connection takes two descriptors of the proxy: the limit of open files (`ulimit -Hn`) bounds them, as it
    does the Services, each of which has a listener.
    """
    known = peers()
    chosen = [known[name] for name in proxies.split(",") if name in known]
    try:
        by_connections = [
            sample
            for number in range(1, rounds + 1)
            for peer in chosen
            if (program := peer.program()) is not None
            for sample in with_connections(peer, program, connections, number)
        ]
        by_services = [
            sample for number in range(1, rounds + 1) for count in services for sample in [with_services(count, number)]
        ]
    except (BuildError, StartError, LoadError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(to_text("connections", by_connections, OF_CONNECTIONS), nl=False)
    click.echo("\n" + to_text("Services", by_services, OF_SERVICES), nl=False)
    if json_file is not None:
        found = {"connections": by_connections, "services": by_services}
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    sys.exit(0)


def with_connections(
    peer: Peer, program: str, connections: Sequence[int], number: int, requests: int = _REQUESTS
) -> list[Sample]:
    """A sample for each number of connections, each with a proxy of its own. Raises StartError and LoadError."""
    samples = []
    load = build("load")
    for count in connections:
        with TemporaryDirectory(prefix="userproxy-bench-") as temporary, ExitStack() as stack:
            directory = Path(temporary)
            own = directory / peer.name
            own.mkdir()
            way = Way(free_port(), BACKENDS, stack.enter_context(backend(load, directory)))
            log = directory / "proxy.log"
            proxy = stack.enter_context(running(peer.command(program, own, way), log))
            wait_until_served(("127.0.0.1", way.listen), proxy, log, _START_LIMIT)
            samples.append(
                Sample(
                    number, f"{peer.name}, {count}", _with_idle(proxy.pid, count, Bench(load, directory, way), requests)
                )
            )
    return samples


def _with_idle(proxy: int, count: int, bench: Bench, requests: int) -> dict[str, float]:
    before = resident_bytes(proxy), descriptors(proxy)
    taken: dict[str, float] = {}

    def look() -> None:
        taken["resident_kb"] = (resident_bytes(proxy) - before[0]) / 1024 / count
        taken["descriptors"] = (descriptors(proxy) - before[1]) / count

    scenario = Scenario("keepalive", count, max(requests, 2 * count), warm_up=max(2_000, count))
    result, cpu = put_under_load(scenario, proxy, bench, look)
    return {"request_cpu_us": cpu / result.requests * 1e6, **taken}


def with_services(count: int, number: int, requests: int = _REQUESTS) -> Sample:
    """A sample of userproxy with so many Services, one of which is asked. Raises StartError and LoadError."""
    program = find_program("userproxy")
    if program is None:
        raise StartError("userproxy is not installed: pip install .")
    load = build("load")
    with TemporaryDirectory(prefix="userproxy-bench-") as temporary, ExitStack() as stack:
        directory = Path(temporary)
        manifests, admin, log = directory / "manifests", directory / "admin.sock", directory / "proxy.log"
        manifests.mkdir()
        way = Way(free_port(), BACKENDS, stack.enter_context(backend(load, directory)))
        # The range has that one port, and of the others each takes what the kernel gives it.
        command = userproxy_command(program, manifests, way)
        (manifests / "others.json").write_text(json.dumps(_others(count - 1)))
        at = command.index("--proxy-port-range")
        command = (*command[:at], *command[at + 2 :], "--admin-socket", str(admin))
        proxy = stack.enter_context(running(command, log))
        way = Way(_local_port(program, admin, proxy, log), BACKENDS, way.backend_port)
        wait_until_served(("127.0.0.1", way.listen), proxy, log, _START_LIMIT)
        bench = Bench(load, directory, way)
        kept, cpu = put_under_load(Scenario("keepalive", 64, requests, warm_up=2_000), proxy.pid, bench)
        short = Scenario("connection", 16, requests // 4, warm_up=requests // 20, reconnect=True)
        opened, connection_cpu = put_under_load(short, proxy.pid, bench)
        figures = {
            "request_cpu_us": cpu / kept.requests * 1e6,
            "connection_cpu_us": connection_cpu / opened.requests * 1e6,
            "resident_mb": resident_bytes(proxy.pid) / 1e6,
        }
        return Sample(number, str(count), figures)


def _local_port(program: str, admin: Path, proxy: "subprocess.Popen[str]", log: Path) -> int:
    """The port of the Service that is asked, once all are served. Raises StartError."""
    command = (program, "get", "portals", "default/bench", "-o", "json", "--admin-socket", str(admin))
    ports: list[int] = []

    def is_there(_address: tuple[str, int]) -> bool:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        items = json.loads(done.stdout)["items"] if done.returncode == 0 else []
        ports[:] = [item["local_port"] for item in items if item["local_port"]]
        return bool(ports)

    wait_until_served(("127.0.0.1", 0), proxy, log, _START_LIMIT, is_there)
    return ports[0]


def _others(count: int) -> dict[str, object]:
    """So many Services with one endpoint each, as a List."""
    return {"apiVersion": "v1", "kind": "List", "items": [item for n in range(count) for item in _other(n)]}


def _other(number: int) -> tuple[dict[str, object], ...]:
    name, ip = f"other-{number}", f"10.97.{number // 250}.{number % 250 + 1}"
    service: dict[str, object] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80, "targetPort": 8080}]},
    }
    slice_: dict[str, object] = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-1", "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [f"10.98.{number // 250}.{number % 250 + 1}"]}],
    }
    return service, slice_


def to_text(what: str, samples: Sequence[Sample], metrics: dict[str, str]) -> str:
    """A line for each number of `what`: medians over rounds, with the least and the greatest."""
    rows = spreads(samples, metrics)
    lines = [[what, *metrics.values()]]
    lines += [[name, *(cell(row.get(metric), 1) for metric in metrics)] for name, row in rows.items()]
    return "".join(f"{line}\n" for line in table(lines))
