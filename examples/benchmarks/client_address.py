"""``python -m examples.benchmarks client_address``: what it costs that backends see the client's address. Root only."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import msgspec

from examples.benchmarks.measure import MeasureError, Sample, ratios, spreads
from examples.benchmarks.peers import Way
from examples.benchmarks.processes import StartError, last_words, running
from examples.benchmarks.report import cell, table
from examples.benchmarks.scenarios import Bench, LoadError, Scenario, put_under_load
from examples.benchmarks.toolchain import BuildError, build, find_program
from userproxy.demo.hosts import Host
from userproxy.demo.network import Network, Node, Pod
from userproxy.demo.waiting import DeadlineError, eventually
from userproxy.errors import UserproxyError

NODE, CLIENT = "node", "client"
PORTALS = {NODE: "10.96.0.10", CLIENT: "10.96.0.11"}
"""Whose address the backend sees, and the cluster IP of the Service that asks for that."""

METRICS = {"connection_cpu_us": "CPU/connection, us", "request_cpu_us": "CPU/request, us"}
LIMIT = 1.15
"""A connection from the client's address, and a request, are to cost at most so many times one from the node's."""

_PORT = 8080
_START_LIMIT = 30.0
_ANNOTATIONS = {NODE: "node", CLIENT: "keep"}


@click.command()
@click.option("--rounds", type=click.IntRange(1, 100), default=9, show_default=True, help="Rounds.")
@click.option("--connections", default=3_000, show_default=True, help="Connections a measurement, 16 at once.")
@click.option("--requests", default=30_000, show_default=True, help="Requests a measurement, on 16 connections.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Also write JSON here.")
def main(rounds: int, connections: int, requests: int, json_file: Path | None) -> None:
    """CPU of a connection and of a request from the client's address, against the same from the node's.

    One userproxy between two routed Pods, in network namespaces of its own: nothing of the machine is touched. In a
    round each has its turn; ratios are taken within rounds.
    """
    try:
        samples = measure(rounds, connections, requests)
    except (BuildError, StartError, LoadError, MeasureError, UserproxyError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(to_text(samples), nl=False)
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(samples), indent=2) + b"\n")


def measure(rounds: int, connections: int, requests: int) -> list[Sample]:
    """A sample for each address and round.

    Raises BuildError, StartError, LoadError, MeasureError, and UserproxyError where hosts cannot be made.
    """
    program = find_program("userproxy")
    if program is None:
        raise StartError("userproxy is not installed: pip install .")
    load = build("load")
    loads = {
        "connection_cpu_us": Scenario("connection", 16, connections, connections // 5, reconnect=True),
        "request_cpu_us": Scenario("keepalive", 16, requests, requests // 5),
    }
    with TemporaryDirectory(prefix="userproxy-bench-") as temporary, _serving(program, load, Path(temporary)) as bench:
        samples = []
        for number in range(1, rounds + 1):
            for name in list(PORTALS)[:: 1 if number % 2 else -1]:
                target = msgspec.structs.replace(bench.of, target=f"{PORTALS[name]}:80")
                values = {}
                for metric, scenario in loads.items():
                    result, cpu = put_under_load(scenario, bench.proxy, target)
                    values[metric] = cpu / result.requests * 1e6
                samples.append(Sample(number, name, values))
        return samples


def to_text(samples: Sequence[Sample]) -> str:
    """A line for each address: medians, and how they compare with the node's."""
    aims = [f"{text.split(',')[0]}: of the node's (at most {LIMIT})" for text in METRICS.values()]
    lines = [["backend sees", *METRICS.values(), *aims]]
    for name, row in spreads(samples, METRICS).items():
        compared = ratios(samples, name, tuple(METRICS)).get(NODE, {})
        figures = [cell(row[metric], 1) for metric in METRICS]
        lines.append(
            [f"the {name}'s", *figures, *(cell(compared[metric], 2) if compared else "" for metric in METRICS)]
        )
    return "".join(f"{line}\n" for line in table(lines))


class _Served(msgspec.Struct, frozen=True):
    """A userproxy that serves, and how a load in the client's Pod gets there."""

    of: Bench
    proxy: int


@contextmanager
def _serving(program: str, load: Path, directory: Path) -> Iterator[_Served]:
    with ExitStack() as stack:
        network = stack.enter_context(Network(pods="routed"))
        node = network.add_node(Node("node"))
        client, server = (network.add_pod(node, Pod(name)) for name in ("client", "server"))
        for host in (client, node):
            host.sysctl("net.ipv4.tcp_tw_reuse", 1)  # else the client's ports run out over the rounds
        backend = (*_inside(server), str(load), "backend", "-anywhere", "-listen", f"{server.address}:{_PORT}")
        stack.enter_context(running(backend, directory / "backend.log"))
        manifests = directory / "manifests"
        manifests.mkdir()
        (manifests / "bench.yaml").write_text("---\n".join(_manifest(name, server.address) for name in PORTALS))
        command = (
            *(*_inside(node), program, "run", "--manifests", str(manifests), "--portals", "nftables"),
            *("--hostname-override", node.name, "--cluster-cidr", "10.244.0.0/16", "--admin-socket", ""),
        )
        log = directory / "proxy.log"
        proxy = stack.enter_context(running(command, log))
        for name, portal in PORTALS.items():
            try:
                eventually(partial(_is_seen, client, server, portal, by_client=name == CLIENT), _START_LIMIT)
            except DeadlineError as error:
                raise StartError(f"the backend does not see the {name}'s address: {last_words(log)}") from error
        yield _Served(Bench(load, directory, Way(0, (), _PORT), inside=_inside(client)), proxy.pid)


def _inside(host: Host) -> tuple[str, ...]:
    return ("nsenter", "-t", str(host.pid), "-n", "--")


def _is_seen(client: Host, server: Host, portal: str, *, by_client: bool) -> bool:
    """Whether the server sees the client's address of a connection to a portal, or another one. Raises OSError."""
    with client.connect((portal, 80), timeout=1.0) as connection:
        connection.sendall(b"GET /1 HTTP/1.1\r\n\r\n")
        connection.recv(1)
        return (client.address in server.inside(_peers)) is by_client


def _peers() -> set[str]:
    """Who is connected to the server, by proc(5), /proc/net/tcp: the kernel's number of an address, in hexadecimal."""
    rows = (line.split() for line in Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:])
    established = [row[2].partition(":")[0] for row in rows if row[3] == "01"]
    return {str(IPv4Address(int(peer, 16).to_bytes(4, sys.byteorder))) for peer in established}


def _manifest(name: str, endpoint: str) -> str:
    return f"""\
apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: default
  annotations: {{userproxy.io/client-address: {_ANNOTATIONS[name]}}}
spec:
  clusterIP: {PORTALS[name]}
  clusterIPs: [{PORTALS[name]}]
  ports: [{{port: 80, targetPort: {_PORT}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-1
  namespace: default
  labels: {{kubernetes.io/service-name: {name}}}
addressType: IPv4
ports: [{{name: "", port: {_PORT}}}]
endpoints: [{{addresses: [{endpoint}], nodeName: node}}]
"""
