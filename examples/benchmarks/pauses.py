"""How long a client waits while the control plane works, with real rules in a network namespace of its own."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec import Struct

from examples.benchmarks.control_server import ControlServer, Object, serving
from examples.benchmarks.measure import cpu_seconds
from examples.benchmarks.processes import StartError, last_words, running
from userproxy.demo.namespaces import enter_new_namespaces

NODE = "10.255.0.1"
"""The node's address in its namespace, and the backend's."""

_REST = 1.0
"""Seconds after each change: longer than a sync takes."""

_SETTLE = 3.0
"""Seconds after the start, in which userproxy may still have something to do."""

_RELISTS = 3
_VERIFY_EVERY = 3.0
_VERIFICATIONS = 4
_LIMIT = 120.0
_HINT = "KUBE-IPTABLES-HINT"
"""The chain by which kubelet shows which variant it uses."""


class Step(Struct, frozen=True):
    """What something costs, each time, and the longest that the client waited meanwhile."""

    name: str
    cpu_ms: float
    longest_ms: float


class Plan(Struct, frozen=True):
    """What to measure.

    `command` starts userproxy and takes a directory, the server's URL and further options. `objects` are what the
    server has, `added` what comes and goes, each by plural. The client talks to `backend` by way of `portal`.
    """

    command: Callable[[Path, str, Sequence[str]], tuple[str, ...]]
    objects: Mapping[str, list[Object]]
    added: Sequence[Mapping[str, Object]]
    backend: str
    portal: str
    quiet: float
    variant: str


class Waits(Struct, frozen=True):
    """How long a client's `count` exchanges took at most, and 99 of 100 of them."""

    longest_ms: float
    p99_ms: float
    count: int


class Client:
    """A running :mod:`examples.benchmarks.pulse`, which is served."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._answer()

    def longest_ms(self) -> float:
        """The longest wait since this was asked last. Raises StartError where the client has been cut off."""
        return self.waits().longest_ms

    def waits(self) -> Waits:
        """How long it has waited since this was asked last. Raises StartError where the client has been cut off."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        longest, p99, count = self._answer().split()
        return Waits(float(longest), float(p99), int(count))

    def _answer(self) -> str:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline().strip()
        if not answer:
            raise StartError("the client was not served, or was cut off")
        return answer


class _Meter:
    """Measures what userproxy does beside carrying the client's traffic, which takes `rate` seconds of CPU a second."""

    def __init__(self, pid: int, client: Client, rate: float = 0.0) -> None:
        self._pid = pid
        self._client = client
        self.rate = rate

    def step(self, name: str, count: int, work: Callable[[], None]) -> Step:
        """What `work` costs, which does something `count` times."""
        self._client.longest_ms()
        cpu, began = cpu_seconds(self._pid), time.monotonic()
        work()
        spent = cpu_seconds(self._pid) - cpu - self.rate * (time.monotonic() - began)
        return Step(name, max(spent, 0.0) / count * 1e3, self._client.longest_ms())


def in_namespaces(plan: Plan) -> list[Step]:
    """The steps of `plan`. Raises OSError where no namespaces can be had, StartError and MeasureError."""
    with ThreadPoolExecutor(max_workers=1) as threads:  # it is a thread that enters namespaces, and they end with it
        return threads.submit(_measure, plan).result()


def _measure(plan: Plan) -> list[Step]:
    enter_new_namespaces()
    for command in (
        "ip link set lo up",
        "ip link add node0 type veth peer name node1",
        f"ip address add {NODE}/24 dev node0",
        "ip link set node0 up",
        "ip link set node1 up",
        "ip route add default dev node0",
        f"iptables-{plan.variant} -t mangle -N {_HINT}",
    ):
        subprocess.run(command.split(), check=True)
    with _served(plan, "1h") as (server, meter):
        quiet = meter.step("nothing", 1, lambda: time.sleep(plan.quiet))
        meter.rate = quiet.cpu_ms / 1e3 / plan.quiet
        steps = [Step("nothing", 0.0, quiet.longest_ms), *_changes(plan, server, meter)]
        rate = meter.rate
    with _served(plan, f"{_VERIFY_EVERY:g}s") as (_, meter):
        meter.rate = rate
        seconds = _VERIFICATIONS * _VERIFY_EVERY
        return [*steps, meter.step("verification", _VERIFICATIONS, lambda: time.sleep(seconds))]


@contextmanager
def _served(plan: Plan, verify_every: str) -> Iterator[tuple[ControlServer, _Meter]]:
    """A client that is served by a userproxy that follows a server."""
    options = ("--iptables-sync-period", verify_every)
    with TemporaryDirectory(prefix="userproxy-bench-") as temporary, serving(plan.objects) as server:
        directory = Path(temporary)
        log = directory / "log"
        pulse = (sys.executable, "-m", "examples.benchmarks.pulse", plan.backend, plan.portal)
        with (
            running(plan.command(directory, server.url, options), log) as process,
            running(pulse, directory / "pulse", piped=True) as client,
        ):
            try:
                meter = _Meter(process.pid, Client(client))
            except StartError as error:
                raise StartError(f"{error}: {last_words(log)} {last_words(directory / 'pulse')}") from error
            time.sleep(_SETTLE)
            yield server, meter


def _changes(plan: Plan, server: ControlServer, meter: _Meter) -> list[Step]:
    def each(change: Callable[[str, Object], None]) -> None:
        for objects in plan.added:
            for plural, item in objects.items():
                change(plural, item)
            time.sleep(_REST)

    def list_again() -> None:
        for _ in range(_RELISTS):
            before = {plural: server.watches(plural) for plural in plan.objects}
            for plural in before:
                server.expire(plural)
            _wait(lambda: all(server.watches(plural) > count for plural, count in before.items()))  # noqa: B023
            time.sleep(_REST)

    return [
        meter.step("a Service added", len(plan.added), lambda: each(server.add)),
        meter.step("a Service removed", len(plan.added), lambda: each(server.remove)),
        meter.step("re-list", _RELISTS, list_again),
    ]


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _LIMIT
    while not condition():
        if time.monotonic() > deadline:
            raise StartError(f"userproxy did not list again within {_LIMIT:g} s")
        time.sleep(0.02)
