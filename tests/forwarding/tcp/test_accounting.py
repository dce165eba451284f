"""Whatever fails in the middle of a connection: every descriptor is given back, and the next client is served."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from random import Random

import pytest
from structlog.testing import capture_logs

from tests.forwarding.conftest import LOOPBACK, RESET, Serve, echo, eventually, named
from userproxy.forwarding import client_addresses, return_pairs
from userproxy.forwarding.assembly.options import ForwardingOptions
from userproxy.forwarding.descriptors import count_descriptors
from userproxy.forwarding.forwarder import Forwarder
from userproxy.forwarding.poller import Poller
from userproxy.forwarding.ports.ranges import PortRange
from userproxy.forwarding.tcp import listener, pipes
from userproxy.forwarding.tcp.connections import Connections
from userproxy.forwarding.tcp.direction import Direction
from userproxy.forwarding.tcp.relay import Relay
from userproxy.forwarding.tcp.relays.ways import Ways
from userproxy.forwarding.tcp.sockets import ListeningSocket
from userproxy.forwarding.tcp.sources import client_sockets, dial_source, node_sockets
from userproxy.model import (
    ClientAddress,
    DirectNetwork,
    Endpoint,
    IPFamily,
    ListenerName,
    Protocol,
    ReturnPath,
    ServicePortName,
    Snapshot,
    Verdict,
)

pytestmark = pytest.mark.bugs


NAMES = tuple(ListenerName(ServicePortName("default", f"s{n}", "", Protocol.TCP)) for n in range(3))
STEPS = 300
SHORTAGES = (errno.EMFILE, errno.ENOBUFS)
BUG = 0
FAULTS: tuple[tuple[object, str, tuple[int, ...]], ...] = (
    (Poller, "add", (errno.ENOSPC, BUG)),
    (Poller, "add_beside", (errno.ENOSPC, BUG)),
    (Relay, "start", (BUG,)),
    (Relay, "half_close", (errno.ENOTCONN, BUG)),
    (Ways, "_pump", (errno.EPIPE, BUG)),
    (Direction, "half_close", (errno.ENOTCONN, BUG)),
    (Direction, "_drain_pipe", (errno.EPIPE, BUG)),
    (Direction, "flush", (errno.EPIPE, BUG)),
    (pipes, "Pipe", (errno.ENFILE,)),
    (node_sockets, "start_dial", (*SHORTAGES, errno.EPERM, BUG)),
    (node_sockets.NodeSockets, "connect", (*SHORTAGES, BUG)),
    (client_sockets, "start_dial_from", (*SHORTAGES, errno.EPERM, errno.EADDRNOTAVAIL, BUG)),
    (client_sockets.ClientSockets, "connect", (*SHORTAGES, BUG)),
    (ListeningSocket, "accept_client", (*SHORTAGES, errno.ECONNABORTED, errno.EPERM, BUG)),
    (Connections, "serve", (BUG,)),
)
"""What fails now and then, and with which errno."""


class Chaos:
    """A forwarder whose parts fail, and clients who do what they like."""

    def __init__(self, forwarder: Forwarder, random: Random, endpoints: list[Endpoint]) -> None:
        self.forwarder = forwarder
        self.ports: dict[ListenerName, int] = {}
        self.is_on = False
        self._random = random
        self._endpoints = endpoints
        self._clients: list[socket.socket] = []
        self._paths = 0

    def break_now_and_then(self, patch: pytest.MonkeyPatch) -> None:
        for target, name, numbers in FAULTS:
            patch.setattr(target, name, self._failing(getattr(target, name), numbers))

    def _failing(self, function: Callable[..., object], numbers: tuple[int, ...]) -> Callable[..., object]:
        def failing(*arguments: object, **options: object) -> object:
            if self.is_on and self._random.random() < 0.02:
                number = self._random.choice(numbers)
                raise OSError(number, os.strerror(number)) if number else RuntimeError("a bug")
            return function(*arguments, **options)

        return failing

    def route(self, name: ListenerName, verdict: Verdict = Verdict.SERVE) -> None:
        some = tuple(self._random.sample(self._endpoints, self._random.randint(1, 3)))
        known = self._random.choice([None, None, tuple(self._endpoints[:2])])
        whose = self._random.choice([ClientAddress.NODE, ClientAddress.KEEP, ClientAddress.KEEP])
        endpoints = some if verdict is Verdict.SERVE else ()
        nodes = ("",) * len(endpoints)
        self.forwarder.update(Snapshot(name, verdict, endpoints, known=known, client_address=whose, nodes=nodes))

    def reroute(self) -> None:
        """Have all be forgotten that was learned of answers to clients' addresses."""
        self._paths += 1
        everybody = DirectNetwork("127.0.0.0/8", f"if{self._paths}", of_pods=True)
        self.forwarder.follow_return_path(ReturnPath(IPFamily.IPV4, networks=(everybody,)))

    def lose_answers(self, error: int) -> bool:
        """As `is_answer`, which sometimes says no, as if there were none."""
        return error in (0, errno.ECONNREFUSED) and not (self.is_on and self._random.random() < 0.3)

    def open(self, name: ListenerName) -> None:
        if name not in self.ports:
            was_on, self.is_on = self.is_on, False
            self.ports[name] = self.forwarder.open(name)
            self.is_on = was_on
        self.route(name)

    def step(self) -> None:
        random, name = self._random, self._random.choice(NAMES)
        if random.random() < 0.3:
            self.reroute()
        if random.random() < 0.45 and name in self.ports:
            self._connect(self.ports[name])
        elif random.random() < 0.9 and self._clients:
            with suppress(OSError):
                self._act(random.choice(self._clients))
        elif random.random() < 0.6 and name in self.ports:
            self.route(name, random.choice([Verdict.SERVE, *Verdict]))
        elif random.random() < 0.4 and name in self.ports:
            del self.ports[name]
            self.forwarder.close(name)
        else:
            self.open(name)

    def _connect(self, port: int) -> None:
        client = socket.socket()
        client.setblocking(False)
        if self._random.random() < 0.3:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.bind((f"127.0.0.{self._random.choice([1, 1, 2, 3])}", 0))
        client.connect_ex((LOOPBACK, port))
        self._clients.append(client)

    def _act(self, client: socket.socket) -> None:
        match self._random.randrange(6):
            case 0 | 1:
                client.send(b"y" * self._random.choice([1, 1000, 200_000]))
            case 2:
                client.shutdown(socket.SHUT_WR)
            case 3:
                client.recv(1 << 20)
            case action:
                self._clients.remove(client)
                if action == 4:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                client.close()

    def end(self) -> None:
        """Nothing fails any more, and all clients go."""
        self.is_on = False
        while self._clients:
            self._clients.pop().close()

    @property
    def held(self) -> int:
        """Descriptors that the data plane has, as its parts tell."""
        listeners = self.forwarder._listeners.values()
        waiting = sum(len(each._held) for each in listeners if isinstance(each, listener.TcpListener))
        looks = len(self.forwarder._tcp.dialer.looks.current)
        return len(self.ports) + looks + 2 * (self.forwarder.active + self.forwarder._tcp.pipes._made + waiting)


@pytest.fixture(params=[128, 1000])
async def chaos(
    request: pytest.FixtureRequest, serve: Serve, monkeypatch: pytest.MonkeyPatch, uncounted: None
) -> AsyncIterator[Chaos]:
    monkeypatch.setattr(listener, "_RETRY_SECONDS", 0.02)
    monkeypatch.setattr(pipes, "STALL_SECONDS", 0.01)
    monkeypatch.setattr(pipes, "MOST_PIPES", 4)
    endpoints = [Endpoint(*await serve(handler)) for handler in (echo, echo, named(b"x" * 200_000))]
    with socket.socket() as refusing:
        refusing.bind((LOOPBACK, 0))
        endpoints.append(Endpoint(*refusing.getsockname()))
        options = ForwardingOptions(
            {IPFamily.IPV4: LOOPBACK}, PortRange(), False, 5.0, request.param + count_descriptors()
        )
        forwarder = Forwarder(asyncio.get_running_loop(), options, Random(1))
        made = Chaos(forwarder, Random(request.param), endpoints)
        made.break_now_and_then(monkeypatch)
        made.reroute()
        monkeypatch.setattr(client_addresses, "is_own_address", lambda _: False)
        monkeypatch.setattr(dial_source, "is_answer", made.lose_answers)
        monkeypatch.setattr(return_pairs, "_FIRST_PAUSE", 0.01)
        yield made
        made.end()
        forwarder.shut_down()


async def test_the_budget_is_the_truth_whatever_fails(chaos: Chaos) -> None:
    forwarder = chaos.forwarder
    budget = forwarder._budget
    everything = budget.free
    with capture_logs():
        for name in NAMES:
            chaos.open(name)
        chaos.is_on = True
        for _ in range(STEPS):
            chaos.step()
            await asyncio.sleep(chaos._random.choice([0, 0, 0, 0.001, 0.01]))
            assert everything - budget.free == budget._mine == chaos.held
        assert forwarder.handler_failures[Protocol.TCP]
        chaos.end()
        for name in NAMES:
            chaos.open(name)
            forwarder.update(Snapshot(name, Verdict.SERVE, (chaos._endpoints[0],)))
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection(LOOPBACK, chaos.ports[name])
                writer.write(b"hello")
                assert await reader.readexactly(5) == b"hello"
            writer.close()
        await eventually(lambda: not forwarder.active)
    assert everything - budget.free == budget._mine == chaos.held == len(NAMES) + 2 * forwarder._tcp.pipes._made
    assert not forwarder._tcp.pipes._kept
    assert not any(forwarder.statistics(name).active for name in NAMES)
    learned = [pair for pairs in forwarder.client_addresses.pairs.values() for pair in pairs]
    await eventually(lambda: not any(pair.is_probed or pair.waiting for pair in learned))
