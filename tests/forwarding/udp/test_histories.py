"""Whatever happens to UDP listeners, in whatever order: nothing leaks, and nobody gets another client's answer."""

import socket
from contextlib import suppress
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from structlog.testing import capture_logs

from tests.forwarding.clocked import ClockedLoop
from tests.forwarding.own_descriptors import OwnDescriptors
from userproxy.forwarding.descriptors import DescriptorBudget
from userproxy.forwarding.udp.listener import UdpListener
from userproxy.forwarding.udp.plane import UdpOptions, UdpPlane
from userproxy.forwarding.udp.sockets import DatagramSocket
from userproxy.forwarding.udp.statistics import UdpStatistics
from userproxy.model import Endpoint, ListenerName, Protocol, ServicePortName, Snapshot, Verdict
from userproxy.routing.balancer import Balancer

LISTENERS = 2
CLIENTS = 6
BACKENDS = 3
OPTIONS = UdpOptions(flow_limit=6, flow_limit_per_listener=4)
LOCALS = ("127.0.0.1", "127.0.0.2")


def udp_socket(port: int = 0) -> socket.socket:
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.setblocking(False)
    try:
        sock.bind(("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    return sock


class Histories(RuleBasedStateMachine):
    """Real sockets, and a clock of our own. On loopback a datagram is there when send() returns."""

    def __init__(self) -> None:
        super().__init__()
        self.descriptors = OwnDescriptors()
        self.loop = ClockedLoop()
        self.budget = DescriptorBudget(self.loop, 100_000)
        self.plane = UdpPlane(self.loop, self.budget, OPTIONS)
        self.listeners: list[UdpListener] = []
        for number in range(LISTENERS):
            assert self.budget.take_for_port()
            name = ListenerName(ServicePortName("default", f"service-{number}", "", Protocol.UDP))
            self.listeners.append(
                UdpListener(
                    self.plane, name, DatagramSocket.open("0.0.0.0", 0), Balancer(Random(number)), UdpStatistics()
                )
            )
        self.clients = [udp_socket() for _ in range(CLIENTS)]
        self.backends: list[socket.socket | None] = [udp_socket() for _ in range(BACKENDS)]
        self.endpoints = [Endpoint(*backend.getsockname()) for backend in self.backends if backend is not None]
        self.questions: list[list[tuple[bytes, tuple[str, int]]]] = [[] for _ in range(BACKENDS)]
        self.serial = 0
        self.free = self.budget.free
        self.turn()
        self.others = len(self.descriptors)
        self.updated: list[Snapshot | None] = [None] * LISTENERS
        self.taken = 0

    def turn(self) -> None:
        with capture_logs() as logs:
            self.loop.turn()
        assert not [entry for entry in logs if entry["log_level"] == "error"], logs

    @rule(
        client=st.integers(0, CLIENTS - 1),
        listener=st.integers(0, LISTENERS - 1),
        local=st.sampled_from(LOCALS),
        size=st.sampled_from([0, 0, 0, 3000, 60_000]),
        turn=st.booleans(),
    )
    def ask(self, client: int, listener: int, local: str, size: int, turn: bool) -> None:
        self.serial += 1
        question = b"%d/%d/%s/%d/" % (self.serial, client, local.encode(), self.listeners[listener].port)
        with suppress(ConnectionRefusedError):
            self.clients[client].sendto(question + bytes(size), (local, self.listeners[listener].port))
        if turn:
            self.turn()

    @rule(count=st.integers(1, 20), listener=st.integers(0, LISTENERS - 1))
    def flood(self, count: int, listener: int) -> None:
        for _ in range(count):
            with udp_socket() as client:
                client.sendto(b"0/none/", ("127.0.0.1", self.listeners[listener].port))
        self.turn()

    @rule(backend=st.integers(0, BACKENDS - 1))
    def listen_to_questions(self, backend: int) -> None:
        sock = self.backends[backend]
        while sock is not None:
            try:
                self.questions[backend].append(sock.recvfrom(65_536))
            except BlockingIOError:
                break

    @rule(backend=st.integers(0, BACKENDS - 1), copies=st.integers(1, 12), turn=st.booleans())
    def answer(self, backend: int, copies: int, turn: bool) -> None:
        sock = self.backends[backend]
        questions, self.questions[backend] = self.questions[backend], []
        if sock is not None:
            for question, flow in questions:
                for _ in range(copies):
                    with suppress(ConnectionRefusedError, BlockingIOError):
                        sock.sendto(question, flow)
        if turn:
            self.turn()

    @rule(backend=st.integers(0, BACKENDS - 1))
    def stop_or_start_a_backend(self, backend: int) -> None:
        sock = self.backends[backend]
        if sock is not None:
            sock.close()
            self.backends[backend] = None
            self.questions[backend].clear()
        else:
            with suppress(OSError):  # a flow has its port for now
                self.backends[backend] = udp_socket(self.endpoints[backend].port)

    @rule(
        listener=st.integers(0, LISTENERS - 1),
        which=st.sets(st.integers(0, BACKENDS - 1)),
        verdict=st.sampled_from([Verdict.SERVE, Verdict.SERVE, Verdict.SERVE, Verdict.REJECT, Verdict.DROP]),
        known=st.booleans(),
        affinity=st.sampled_from([None, None, 10]),
        udp_timeout=st.sampled_from([None, None, 0.25, 5.0, 600.0]),
    )
    def update(
        self,
        listener: int,
        which: set[int],
        verdict: Verdict,
        known: bool,
        affinity: int | None,
        udp_timeout: float | None,
    ) -> None:
        endpoints = tuple(self.endpoints[number] for number in sorted(which)) if verdict is Verdict.SERVE else ()
        target = self.listeners[listener]
        snapshot = Snapshot(target.name, verdict, endpoints, affinity, endpoints if known else None, udp_timeout)
        target.balancer.update(snapshot)
        self.updated[listener] = snapshot
        target.follow(snapshot)
        self.turn()

    @rule(seconds=st.sampled_from([0.01, 0.3, 2.5, 31.0, 130.0]))
    def wait(self, seconds: float) -> None:
        self.loop.advance(seconds)

    @rule(seconds=st.sampled_from([1.0, 40.0, 10_000.0]))
    def stand_still(self, seconds: float) -> None:
        self.loop.jump(seconds)

    @rule()
    def turn_now(self) -> None:
        self.turn()

    @precondition(lambda self: self.budget.free > 10)
    @rule()
    def others_take_all_descriptors(self) -> None:
        self.taken = self.budget.free
        assert self.budget.take(self.taken)
        self.free -= self.taken

    @precondition(lambda self: self.budget.free <= 10)
    @rule()
    def others_give_descriptors_back(self) -> None:
        self.budget.give(self.taken)
        self.free += self.taken
        self.turn()

    @invariant()
    def answers_reach_who_asked_from_where_it_asked(self) -> None:
        for number, client in enumerate(self.clients):
            while True:
                try:
                    answer, sender = client.recvfrom(65_536)
                except BlockingIOError:
                    break
                except ConnectionRefusedError:
                    continue
                _, who, local, port, _ = answer.split(b"/", 4)
                assert int(who) == number
                assert sender == (local.decode(), int(port))

    @invariant()
    def nothing_leaks(self) -> None:
        flows = sum(len(listener.flows) for listener in self.listeners)
        assert flows == self.plane.active == sum(listener.statistics.active for listener in self.listeners)
        assert len(self.plane.poller) == sum(snapshot is not None for snapshot in self.updated) + flows
        assert self.budget.free == self.free - flows
        stopped = sum(backend is None for backend in self.backends)
        refusing = sum(snapshot is not None and snapshot.verdict is Verdict.REJECT for snapshot in self.updated)
        assert len(self.descriptors) == self.others + flows + refusing - stopped, "who refuses holds its port with two"

    @invariant()
    def limits_hold(self) -> None:
        assert self.plane.active <= OPTIONS.flow_limit
        for listener in self.listeners:
            assert len(listener.flows) <= OPTIONS.flow_limit_per_listener

    @invariant()
    def every_flow_has_a_timer_and_none_is_overdue(self) -> None:
        for listener in self.listeners:
            deadline = listener.flows.next_deadline
            if deadline is not None:
                grain = listener.flows.limits.grain
                assert listener._idle_timer._timer is not None
                assert listener._idle_timer._timer.when() <= deadline + grain
                assert deadline + grain >= self.loop.now
            assert set(listener.flows) == set(listener.flows.by_client.values())

    @invariant()
    def flows_follow_the_snapshot(self) -> None:
        for listener, snapshot in zip(self.listeners, self.updated, strict=True):
            if snapshot is None or snapshot.verdict is not Verdict.SERVE:
                assert not len(listener.flows)
                continue
            for flow in listener.flows:
                assert flow.endpoint in snapshot.endpoints or (snapshot.known is None and flow.due == float("-inf"))

    def teardown(self) -> None:
        try:
            self.turn()
            self.answers_reach_who_asked_from_where_it_asked()
            for listener in self.listeners:
                listener.close()
            assert len(self.plane.poller) == 0
            assert self.budget.free == self.free + LISTENERS
            stopped = sum(backend is None for backend in self.backends)
            assert len(self.descriptors) == self.others - LISTENERS - stopped
        finally:
            self.plane.shut_down()
            self.loop.close()
            for sock in (*self.clients, *self.backends):
                if sock is not None:
                    sock.close()


TestHistories = pytest.mark.timeout(300)(Histories.TestCase)
TestHistories.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
