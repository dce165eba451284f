"""One run of ``userproxy run`` with so many Services in a network namespace of its own, watched by a client."""

import random
import re
import select
import socket
import statistics
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from msgspec import Struct

from examples.benchmarks.control_plane import cluster, resident_mb, write_kubeconfig
from examples.benchmarks.control_server import ControlServer, Object, serving
from examples.benchmarks.measure import MeasureError, settled_cpu_seconds
from examples.benchmarks.processes import StartError, free_port, last_words, running
from userproxy.demo.namespaces import enter_new_namespaces

DRIVERS: Final = {
    "iptables-legacy": "iptables",
    "iptables-nft": "iptables",
    "nftables": "nftables",
    "local": "local",
}
"""What ``--portals`` is told for each."""

_NODE: Final = "10.255.0.1"
_ENDPOINTS: Final = "10.128.0.0/16"
"""The first endpoints of all slices."""

_BACKEND_PORT: Final = 8080
_HINT: Final = "KUBE-IPTABLES-HINT"
"""The chain by which kubelet shows which variant it uses."""

_START_LIMIT: Final = 120.0
_CHANGE_LIMIT: Final = 20.0
_SAMPLED: Final = 100
"""Services that are asked whether all are served: evenly, the last one among them."""

_PATIENCE: Final = 0.02
"""Seconds in which a connection is made if it is made at all: all of it happens within one kernel."""

_LOOK_EVERY: Final = 0.001
"""Seconds between two connections of a client that looks, and how long each may take while it waits to be served."""

_SURE: Final = 3
"""Connections in a row that must not be made for a portal to be gone."""

_REST: Final = 0.3
_SYNC_SECONDS: Final = re.compile(
    r'^kubeproxy_sync_proxy_rules_duration_seconds_sum\{ip_family="IPv4"\} (\S+)$', re.MULTILINE
)


class Rounds(Struct, frozen=True):
    """How often changes are made, and how many new connections are timed."""

    changes: int
    connections: int


class Change(Struct, frozen=True):
    """From the API server's event until a client sees it; what the sync took of it; CPU, programs included."""

    seen_ms: float
    sync_ms: float
    cpu_ms: float


class Figures(Struct, frozen=True):
    """What so many Services cost by one driver. Latencies are medians of new connections."""

    driver: str
    services: int
    start_s: float
    start_cpu_s: float
    resident_mb: float
    connect_us: float
    answer_us: float
    added: list[Change]
    removed: list[Change]


def measure(program: str, driver: str, services: int, rounds: Rounds) -> Figures:
    """Start userproxy, have a client look at it, add and remove. Raises OSError, StartError or MeasureError."""
    with ThreadPoolExecutor(max_workers=1) as threads:  # it is a thread that enters namespaces, and they end with it
        return threads.submit(_measure, program, driver, services, rounds).result()


def _measure(program: str, driver: str, services: int, rounds: Rounds) -> Figures:
    _make_node(driver)
    objects = _with_one_endpoint_each(cluster(services + 1))
    added = {plural: items.pop() for plural, items in objects.items() if plural != "nodes"}
    portals = [_portal(each) for each in objects["services"]]
    with TemporaryDirectory(prefix="userproxy-bench-") as temporary, serving(objects) as server, _backend():
        directory, metrics = Path(temporary), free_port()
        began = time.monotonic()
        with running(_command(program, driver, directory, server.url, metrics), directory / "log") as process:
            run = _Run(process, directory / "log", server, metrics)
            for portal in portals[-1 :: -max(len(portals) // _SAMPLED, 1)]:
                run.wait(portal, reached=True, limit=_START_LIMIT)
            start = time.monotonic() - began
            start_cpu, resident = settled_cpu_seconds(process.pid, limit=5.0), resident_mb(process.pid)
            latencies = [_latency(portal) for portal in random.choices(portals, k=rounds.connections)]
            changes = [run.come_and_go(added) for _ in range(rounds.changes)]
    connect, answer = (statistics.median(each) * 1e6 for each in zip(*latencies, strict=True))
    come, go = (list(each) for each in zip(*changes, strict=True))
    return Figures(driver, services, start, start_cpu, resident, connect, answer, come, go)


class _Run:
    """A userproxy that follows `server`, and a client of its portals."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path, server: ControlServer, metrics: int) -> None:
        self._process = process
        self._log = log
        self._server = server
        self._metrics = metrics

    def wait(self, portal: tuple[str, int], *, reached: bool, limit: float = _CHANGE_LIMIT) -> float:
        """When a client first found the portal `reached`, or not any more. Raises StartError."""
        deadline = time.monotonic() + limit
        in_a_row, first = 0, 0.0
        while in_a_row < (1 if reached else _SURE):
            began = time.monotonic()
            found = _is_reached(portal, _LOOK_EVERY if reached else _PATIENCE)
            in_a_row = in_a_row + 1 if found is reached else 0
            first = began if in_a_row == 1 else first
            if self._process.poll() is not None or began > deadline:
                what = "reached" if reached else "gone"
                raise StartError(f"{portal[0]} is not {what} within {limit:g} s: {last_words(self._log)}")
            time.sleep(_LOOK_EVERY)
        return time.monotonic() if reached else first

    def come_and_go(self, added: dict[str, Object]) -> tuple[Change, Change]:
        """One Service with its slice is added, and removed again."""
        portal = _portal(added["services"])
        return (
            self._change(self._server.add, ["endpointslices", "services"], added, portal, reached=True),
            self._change(self._server.remove, ["services", "endpointslices"], added, portal, reached=False),
        )

    def _change(
        self,
        change: Callable[[str, Object], None],
        order: Sequence[str],
        objects: dict[str, Object],
        portal: tuple[str, int],
        *,
        reached: bool,
    ) -> Change:
        time.sleep(_REST)
        cpu, syncs, began = settled_cpu_seconds(self._process.pid), self._sync_seconds(), time.monotonic()
        for plural in order:
            change(plural, objects[plural])
        seen = self.wait(portal, reached=reached) - began
        time.sleep(_REST)
        spent = settled_cpu_seconds(self._process.pid) - cpu
        return Change(seen * 1e3, (self._sync_seconds() - syncs) * 1e3, spent * 1e3)

    def _sync_seconds(self) -> float:
        """What all syncs until now have taken, from their beginning to what is in force."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics}/metrics", timeout=10) as answer:
            found = _SYNC_SECONDS.search(answer.read().decode())
        if found is None:
            raise MeasureError("the metrics do not say how long a sync takes")
        return float(found[1])


def _make_node(driver: str) -> None:
    """A node that sends what nobody takes into an interface where nobody answers."""
    enter_new_namespaces()
    for command in (
        "ip link set lo up",
        "ip link add node0 type veth peer name node1",
        "ip link set node0 arp off",
        f"ip address add {_NODE}/24 dev node0",
        "ip link set node0 up",
        "ip link set node1 up",
        "ip route add default dev node0",
        f"ip route add local {_ENDPOINTS} dev lo",
        *([f"{driver} -t mangle -N {_HINT}"] if DRIVERS[driver] == "iptables" else []),
    ):
        subprocess.run(command.split(), check=True)


def _command(program: str, driver: str, directory: Path, url: str, metrics: int) -> tuple[str, ...]:
    return (
        *(program, "run", "--kubeconfig", str(write_kubeconfig(directory, url)), "--portals", DRIVERS[driver]),
        *("--hostname-override", "node-1", "--logging-format", "json"),
        *("--iptables-min-sync-period", "0s", "--iptables-sync-period", "1h"),
        *("--healthz-bind-address", f"127.0.0.1:{free_port()}", "--metrics-bind-address", f"127.0.0.1:{metrics}"),
    )


def _with_one_endpoint_each(objects: dict[str, list[Object]]) -> dict[str, list[Object]]:
    for each in objects["endpointslices"]:
        del each["endpoints"][1:]
    return objects


def _portal(service: Object) -> tuple[str, int]:
    return service["spec"]["clusterIP"], service["spec"]["ports"][0]["port"]


def _is_reached(portal: tuple[str, int], patience: float) -> bool:
    with socket.socket() as client:
        client.setblocking(False)
        client.connect_ex(portal)
        poll = select.poll()
        poll.register(client, select.POLLOUT)
        return bool(poll.poll(patience * 1e3)) and client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def _latency(portal: tuple[str, int]) -> tuple[float, float]:
    """Seconds until a new connection stands, and until the backend's first byte."""
    with socket.socket() as client:
        client.settimeout(10)
        began = time.perf_counter()
        client.connect(portal)
        connected = time.perf_counter()
        client.send(b"?")
        client.recv(1)
        return connected - began, time.perf_counter() - began


@contextmanager
def _backend() -> Iterator[None]:
    """Answers every client with one byte."""
    with socket.create_server(("0.0.0.0", _BACKEND_PORT), backlog=1024) as listening:

        def answer() -> None:
            while True:
                try:
                    client, _ = listening.accept()
                except OSError:
                    return
                with client, suppress(OSError):  # some clients only connect
                    if client.recv(1):
                        client.send(b"!")

        thread = threading.Thread(target=answer, name="backend", daemon=True)
        thread.start()
        yield
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
