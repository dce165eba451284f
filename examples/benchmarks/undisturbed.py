"""``python -m examples.benchmarks undisturbed``: what a client notices of a re-list, and of a start. Root only."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import click
import msgspec
from msgspec import Struct

from examples.benchmarks.control_plane import cluster, write_kubeconfig
from examples.benchmarks.control_server import ControlServer, serving
from examples.benchmarks.growth import Numbers
from examples.benchmarks.measure import MeasureError
from examples.benchmarks.pauses import NODE, Client, Waits
from examples.benchmarks.processes import StartError, last_words, running, stop
from examples.benchmarks.toolchain import find_program
from userproxy.demo.namespaces import enter_new_namespaces
from userproxy.portals.host import ipv6_usable

LIMIT = 1.5
"""The most that the 99th percentile may be, divided by that of the quiet seconds before."""

RELIST, START, SPIN = "re-list", "start", "another process"
_QUIET = 2.0
"""Seconds of nothing before each measurement."""

WAIT_LIMIT = 120.0
_PORT = 8080
_DIRECT_PORT = 8081
_NAMED_SOCKET = "ready"


class Round(Struct, frozen=True):
    """What a client waited in quiet seconds, and while something happened right after them.

    `beside` is what a client waited meanwhile that talked to its endpoint without a proxy.
    """

    workers: int
    what: str
    seconds: float
    quiet: Waits
    meanwhile: Waits
    beside: Waits

    @property
    def ratio(self) -> float:
        """Of the 99th percentiles."""
        return self.meanwhile.p99_ms / self.quiet.p99_ms


@click.command()
@click.option("--services", default=10_000, show_default=True, help="Services, each with a slice of ten endpoints.")
@click.option("--workers", type=Numbers(0), default="0,1,2", show_default=True, help="Data processes.")
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True, help="Rounds.")
@click.option("--portals", default="nftables", show_default=True, help="The driver.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Also write JSON here.")
def main(services: int, workers: tuple[int, ...], rounds: int, portals: str, json_file: Path | None) -> None:
    """How long a client waits for its answers while userproxy lists everything again, and while a successor starts.

    The client exchanges 100 bytes every millisecond. A successor takes over (`run --takeover`), and the client whose
    waits count is one of the process before. What any other program that takes a CPU does to the client is measured,
    too: a process that counts to itself for a second. And so is what a client waits at the same time that talks to its
    endpoint directly: that much is the machine's. The API server is one elsewhere, which takes no CPU that somebody
    wants.
    """
    program = find_program("userproxy")
    if program is None:
        raise click.ClickException("userproxy is not installed (pip install .)")
    found = []
    with ThreadPoolExecutor(max_workers=1) as threads:  # it is a thread that enters namespaces, and they end with it
        try:
            threads.submit(enter_node).result()
            for number in workers:
                run = Run(program, services, number, portals)
                found += threads.submit(run.rounds, rounds).result()
        except (StartError, MeasureError, OSError, subprocess.CalledProcessError) as error:
            raise click.ClickException(str(error)) from error
    click.echo(to_text(found), nl=False)
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")


def enter_node() -> None:
    """Have this thread be in network namespaces of its own, as a node with one address. Raises OSError."""
    enter_new_namespaces()
    for command in (
        "ip link set lo up",
        "ip link add node0 type veth peer name node1",
        f"ip address add {NODE}/24 dev node0",
        "ip link set node0 up",
        "ip link set node1 up",
        "ip route add default dev node0",
    ):
        subprocess.run(command.split(), check=True)


class Run:
    """A userproxy with so many data processes, its successors, and clients of the first of its Services."""

    def __init__(self, program: str, services: int, workers: int, portals: str) -> None:
        self._objects = cluster(services)
        self._objects["endpointslices"][0]["endpoints"] = [{"addresses": [NODE], "conditions": {"ready": True}}]
        self._objects["nodes"][0]["status"]["addresses"] = [{"type": "InternalIP", "address": NODE}]
        (address,) = self._objects["services"][0]["spec"]["clusterIPs"]
        self._portal = f"{address}:80"
        self._command = (
            *(program, "run", "--portals", portals, "--workers", str(workers), "--hostname-override", "node-1"),
            *("--healthz-bind-address", "127.0.0.1:10256", "--metrics-bind-address", "127.0.0.1:10249"),
            *("--logging-format", "json", "--takeover"),
        )
        self._workers = workers
        self._numbers = count(1)

    def rounds(self, rounds: int) -> list[Round]:
        """So many measurements of each kind, by turns. Raises StartError where somebody is not served."""
        found = []
        with (
            TemporaryDirectory(prefix="userproxy-bench-") as temporary,
            serving(self._objects, elsewhere=True) as server,
            ExitStack() as stack,
        ):
            directory = Path(temporary)
            write_kubeconfig(directory, server.url)
            proxy = self._start(directory, stack)
            for _ in range(rounds):
                with self._clients(directory) as clients:
                    found.append(self._measured(SPIN, clients, _spin))
                    found.append(self._measured(RELIST, clients, lambda: _list_again(server)))
                with self._clients(directory) as clients:
                    before = proxy
                    successors: list[subprocess.Popen[str]] = []
                    found.append(
                        self._measured(START, clients, lambda: successors.append(self._start(directory, stack)))  # noqa: B023
                    )
                    (proxy,) = successors
                stop(before)
        return found

    def _measured(self, what: str, clients: tuple[Client, Client], work: Callable[[], None]) -> Round:
        client, direct = clients
        client.waits()
        time.sleep(_QUIET)
        quiet, _, began = client.waits(), direct.waits(), time.monotonic()
        work()
        return Round(self._workers, what, time.monotonic() - began, quiet, client.waits(), direct.waits())

    @contextmanager
    def _clients(self, directory: Path) -> Iterator[tuple[Client, Client]]:
        """One that is served by userproxy, and one that is not."""
        pulse = (sys.executable, "-m", "examples.benchmarks.pulse")
        direct = (*pulse, f"{NODE}:{_DIRECT_PORT}", f"{NODE}:{_DIRECT_PORT}")
        with (
            running((*pulse, f"{NODE}:{_PORT}", self._portal), directory / "pulse", piped=True) as process,
            running(direct, directory / "direct", piped=True) as other,
        ):
            clients = Client(process), Client(other)
            time.sleep(1)  # what follows the start or the end of a process is over
            yield clients

    def _start(self, directory: Path, stack: ExitStack) -> subprocess.Popen[str]:
        """A userproxy that serves all, which takes over from the one that runs, if one does."""
        number = next(self._numbers)
        log = directory / f"log{number}"
        with ready_socket(directory / f"{_NAMED_SOCKET}{number}") as (told, environment):
            command = (
                *("env", *environment, *self._command),
                *("--kubeconfig", str(directory / "kubeconfig"), "--admin-socket", str(directory / "admin.sock")),
            )
            process = stack.enter_context(running(command, log))
            try:
                for _ in range(2 if ipv6_usable() else 1):  # each family says so
                    until_ready(told)
            except TimeoutError as error:
                raise StartError(f"userproxy does not serve within {WAIT_LIMIT:g} s: {last_words(log)}") from error
        return process


@contextmanager
def ready_socket(path: Path) -> Iterator[tuple[socket.socket, Sequence[str]]]:
    """A socket of sd_notify(3), and what is to be in the environment of a process that is to use it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(path))
        told.settimeout(WAIT_LIMIT)
        yield told, (f"NOTIFY_SOCKET={path}",)


def until_ready(told: socket.socket) -> None:
    """Return once a process says that it is ready. Raises TimeoutError."""
    while b"READY=1" not in told.recv(4096):
        pass


def _list_again(server: ControlServer) -> None:
    """Have all watches expire, and wait until there are others, before which everything is listed and compared."""
    before = {plural: server.watches(plural) for plural in ("services", "endpointslices")}
    deadline = time.monotonic() + WAIT_LIMIT
    for plural in before:
        server.expire(plural)
    while any(server.watches(plural) == number for plural, number in before.items()):
        if time.monotonic() > deadline:
            raise StartError(f"userproxy did not list again within {WAIT_LIMIT:g} s")
        time.sleep(0.005)


def _spin() -> None:
    """Take a CPU for a second, in a process of its own."""
    program = "import time; end = time.monotonic() + 1\nwhile time.monotonic() < end: sum(range(1000))"
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ)


def to_text(rounds: Sequence[Round]) -> str:
    """A line for each number of data processes and kind of measurement: medians over the rounds."""
    lines = [
        ["workers", "what", "seconds", "p99 quiet, ms", "p99 meanwhile, ms", "ratio", "longest, ms", "p99 direct, ms"]
    ]
    for workers, what in dict.fromkeys((each.workers, each.what) for each in rounds):
        of = [each for each in rounds if (each.workers, each.what) == (workers, what)]
        ratios = [each.ratio for each in of]
        lines.append(
            [
                str(workers),
                what,
                f"{median(each.seconds for each in of):.2f}",
                f"{median(each.quiet.p99_ms for each in of):.3f}",
                f"{median(each.meanwhile.p99_ms for each in of):.3f}",
                f"{median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})",
                f"{median(each.meanwhile.longest_ms for each in of):.1f}",
                f"{median(each.beside.p99_ms for each in of):.3f}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join([*table, "", f"The aim is a ratio of at most {LIMIT}."]) + "\n"


if __name__ == "__main__":
    main()
