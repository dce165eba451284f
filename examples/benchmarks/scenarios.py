"""What is asked of each proxy, and what is computed from the answers."""

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from msgspec import Struct

from examples.benchmarks.measure import MeasureError, cpu_seconds, settled_cpu_seconds
from examples.benchmarks.peers import Network, Peer, Way
from examples.benchmarks.processes import (
    StartError,
    echoes_datagrams,
    free_port,
    last_words,
    running,
    serves_requests,
    wait_until_served,
)

BACKENDS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
_START_LIMIT = 20.0
_BULK = 32 << 20
"""Bytes of a large reply."""

_SERVER = {Network.TCP: "backend", Network.UDP: "echo"}
ANSWERS: dict[Network, Callable[[tuple[str, int]], bool]] = {
    Network.TCP: serves_requests,
    Network.UDP: echoes_datagrams,
}
"""Whether a server at an address answers."""


class LoadError(Exception):
    """Requests failed, or the load generator ended before its time."""


class Scenario(Struct, frozen=True):
    """One kind of load: requests of 100 bytes for replies of `size` bytes, over so many connections.

    Over UDP, datagrams of `size` bytes that come back, from so many sockets with one under way each.
    Meanwhile `bulk_beside` other connections load one large reply after the other, as fast as they get them.
    """

    name: str
    connections: int
    count: int
    warm_up: int
    size: int = 1024
    reconnect: bool = False
    limit: float = 60.0
    network: Network = Network.TCP
    bulk_beside: int = 0


class LoadResult(Struct, frozen=True):
    """What ``load client`` prints. `bytes` counts replies with their heads."""

    requests: int
    failed: int
    first_error: str
    bytes: int
    seconds: float
    p50_us: float
    p99_us: float


class Outcome(Struct, frozen=True):
    """The metrics that could be taken of a proxy in one turn, and a sentence for each load that failed."""

    values: dict[str, float]
    failures: tuple[str, ...]


class Bench(Struct, frozen=True):
    """What every load of one turn shares: the load program, a directory for its logs, the proxy's way.

    Where `target` is set it is what the load asks, instead of the proxy on loopback, and `inside` the command with
    which the load is run in a network namespace that has it.
    """

    load: Path
    directory: Path
    way: Way
    target: str = ""
    inside: tuple[str, ...] = ()


def scenarios(*, quick: bool) -> tuple[Scenario, ...]:
    """The loads in their order. `quick` ones show that everything works; their figures are noisy."""
    part = 5 if quick else 1
    return (
        Scenario("keepalive", 64, count=100_000 // part, warm_up=20_000 // part),
        Scenario("connection", 16, count=5_000 // part, warm_up=1_000 // part, reconnect=True),
        Scenario("bulk", 4, count=64 // part, warm_up=8, size=_BULK),
        Scenario("latency", 1, count=10_000 // part, warm_up=2_000 // part),
        Scenario("beside", 1, count=500 // part, warm_up=50 // part, bulk_beside=16),
        Scenario("udp", 32, count=200_000 // part, warm_up=20_000 // part, size=64, network=Network.UDP),
    )


def metrics_of(scenario: str, load: LoadResult, cpu: float) -> dict[str, float]:
    """The metrics of one finished load, by the keys of report.METRICS."""
    match scenario:
        case "keepalive":
            return {"keepalive_cpu_us": cpu / load.requests * 1e6}
        case "connection":
            return {"connection_cpu_us": cpu / load.requests * 1e6}
        case "bulk":
            return {"bulk_cpu_s_per_gb": cpu / (load.bytes / 1e9)}
        case "udp":
            return {"udp_cpu_us": cpu / load.requests * 1e6}
        case "beside":
            return {"beside_p50_us": load.p50_us, "beside_p99_us": load.p99_us}
        case _:
            return {"latency_p50_us": load.p50_us, "latency_p99_us": load.p99_us}


@contextmanager
def backend(load: Path, directory: Path, network: Network = Network.TCP) -> Iterator[int]:
    """A backend on every address of BACKENDS; yields its port. Raises StartError."""
    port = free_port(BACKENDS)
    listen = ",".join(f"{address}:{port}" for address in BACKENDS)
    log = directory / "backend.log"
    with running((str(load), _SERVER[network], "-listen", listen), log) as process:
        for address in BACKENDS:
            wait_until_served((address, port), process, log, _START_LIMIT, ANSWERS[network])
        yield port


def take_turn(peer: Peer, program: str, load: Path, wanted: Sequence[Scenario]) -> Outcome:
    """Put `peer` under each load in turn that it can carry; it starts afresh for TCP and for UDP."""
    values: dict[str, float] = {}
    failures: list[str] = []
    for network in peer.networks:
        if loads := [scenario for scenario in wanted if scenario.network is network]:
            outcome = _take_turn(peer, program, load, loads, network)
            values |= outcome.values
            failures += outcome.failures
    return Outcome(values, tuple(failures))


def _take_turn(peer: Peer, program: str, load: Path, loads: Sequence[Scenario], network: Network) -> Outcome:
    """Start `peer` with a backend of its own, put it under each load in turn, and stop it."""
    with TemporaryDirectory(prefix="userproxy-bench-") as temporary:
        directory = Path(temporary)
        try:
            with backend(load, directory, network) as port:
                way = Way(free_port(), BACKENDS, port, network)
                return _measure_all(peer, program, Bench(load, directory, way), loads)
        except StartError as error:
            return Outcome({}, (f"start: {error}",))


def _measure_all(peer: Peer, program: str, bench: Bench, wanted: Sequence[Scenario]) -> Outcome:
    values: dict[str, float] = {}
    failures: list[str] = []
    own = bench.directory / peer.name
    own.mkdir()
    log = bench.directory / "proxy.log"
    with running(peer.command(program, own, bench.way), log) as proxy:
        wait_until_served(("127.0.0.1", bench.way.listen), proxy, log, _START_LIMIT, ANSWERS[bench.way.network])
        for scenario in wanted:
            try:
                values |= metrics_of(scenario.name, *put_under_load(scenario, proxy.pid, bench))
            except (LoadError, MeasureError) as error:
                failures.append(f"{scenario.name}: {error}; its log: {last_words(log)}")
    return Outcome(values, tuple(failures))


def put_under_load(
    scenario: Scenario, proxy: int, bench: Bench, on_warm: Callable[[], None] = lambda: None
) -> tuple[LoadResult, float]:
    """What the load found, and the CPU seconds of the process `proxy` and its children meanwhile.

    `on_warm` is called before that, when all connections are open and idle. The load says when it is warm and when it
    is done, and keeps its connections open at both moments. Raises LoadError where requests failed, and MeasureError.
    """
    log = bench.directory / "load.log"
    clock = cpu_seconds if scenario.bulk_beside else settled_cpu_seconds
    with _bulk_beside(scenario, bench), running(_client_command(scenario, bench), log, piped=True) as client:
        _line(client, log)
        on_warm()
        before = clock(proxy)
        _say(client, "go\n")
        result = msgspec.json.decode(_line(client, log), type=LoadResult)
        used = clock(proxy) - before
    if result.failed:
        total = result.requests + result.failed
        raise LoadError(f"{result.failed} of {total} requests failed: {result.first_error}")
    return result, used


@contextmanager
def _bulk_beside(scenario: Scenario, bench: Bench) -> Iterator[None]:
    """The connections that load large replies meanwhile, without end."""
    if not scenario.bulk_beside:
        yield
        return
    endless = Scenario("bulk", scenario.bulk_beside, 1_000_000, scenario.bulk_beside, size=_BULK, limit=scenario.limit)
    log = bench.directory / "beside.log"
    with running(_client_command(endless, bench), log, piped=True) as client:
        _line(client, log)
        _say(client, "go\n")
        yield


def _client_command(scenario: Scenario, bench: Bench) -> tuple[str, ...]:
    target = bench.target or f"127.0.0.1:{bench.way.listen}"
    return (
        *(*bench.inside, str(bench.load), "client", "-network", scenario.network, "-target", target),
        f"-anywhere={str(bool(bench.target)).lower()}",
        *("-connections", str(scenario.connections), "-count", str(scenario.count)),
        *("-warm-up", str(scenario.warm_up), "-size", str(scenario.size)),
        *("-limit", f"{scenario.limit:g}s", f"-reconnect={str(scenario.reconnect).lower()}"),
    )


def _line(client: subprocess.Popen[str], log: Path) -> str:
    """The client's next line. It ends by itself after its time limit, so this does not wait for ever."""
    assert client.stdout is not None
    line = client.stdout.readline()
    if not line:
        raise LoadError(f"the load generator ended: {last_words(log)}")
    return line


def _say(client: subprocess.Popen[str], text: str) -> None:
    assert client.stdin is not None
    try:
        client.stdin.write(text)
        client.stdin.flush()
    except BrokenPipeError as error:
        raise LoadError("the load generator ended before its measurement") from error
