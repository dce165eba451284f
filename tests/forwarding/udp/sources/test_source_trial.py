"""What silence and answers say of a client's address, and how long a trial is put off that was in vain."""

import errno
import socket
from collections.abc import Iterator
from socket import SocketType

import pytest

from tests.forwarding.udp.bench import listener_name
from userproxy.forwarding.return_pairs import ReturnPairs
from userproxy.forwarding.udp.sources.source_trial import AGAIN_SECONDS, PATIENCE_SECONDS, Pauses, SourceTrial
from userproxy.model import Endpoint, IPFamily, Protocol
from userproxy.model.reports import Source

CLIENT, NODE = Source.CLIENT, Source.NODE
REFUSALS = [errno.EPERM, errno.EINVAL, errno.ENETUNREACH, errno.EADDRNOTAVAIL]


OPENED: list[SocketType] = []


@pytest.fixture(autouse=True)
def _sockets_are_closed() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


def opened() -> SocketType:
    OPENED.append(SocketType(type=socket.SOCK_DGRAM))
    return OPENED[-1]


class Listener:
    def __init__(self) -> None:
        self.name = listener_name()
        self.pauses = Pauses()
        self.has_answered = False

        self.time = 0.0

    def now(self) -> float:
        return self.time

    def sources_of(self, _client: str) -> None:
        return None


class Flow:
    """A flow as far as a trial goes: two sockets, one of which is sent by."""

    def __init__(self, spares: int = 1) -> None:
        self.address = "10.244.1.5"
        self.endpoint: Endpoint | None = Endpoint("10.244.2.5", 53)
        self.listener = Listener()
        self.source = CLIENT
        self.sockets: list[SocketType] = [opened()]
        self.current = self.sockets[0]
        self._spares = spares

    def open_spare(self) -> SocketType | None:
        if not self._spares:
            return None
        self._spares -= 1
        self.sockets.append(opened())
        return self.sockets[-1]

    def close_spare(self, spare: SocketType) -> None:
        assert spare is not self.current
        spare.close()

    def go_by(self, sock: SocketType, source: Source) -> SocketType:
        before, self.current, self.source = self.current, sock, source
        assert source is (CLIENT if sock is self.sockets[0] else NODE)
        return before


class Trial:
    """A trial, its flow, and what is known of the pair."""

    def __init__(self, spares: int = 1) -> None:
        self.flow = Flow(spares)
        self.pair = ReturnPairs(Protocol.UDP, IPFamily.IPV4).of("cali5", "there")
        self.trial = SourceTrial(self.flow, self.pair, 0.0)

    def ask(self, *times: float) -> list[Source]:
        """Whose address the client's datagrams come from that nobody answers."""
        found = []
        for now in times:
            self.trial.ask(now)
            found.append(self.flow.source)
        return found

    @property
    def lost(self) -> bool:
        return self.pair.lost_since is not None


@pytest.fixture
def trial() -> Trial:
    return Trial()


def test_what_is_sent_at_once_is_one_question(trial: Trial) -> None:
    assert trial.ask(0.01, 0.02, 0.24) == [CLIENT] * 3


def test_a_client_that_asks_again_and_is_answered_then_shows_that_the_way_back_is_missing(trial: Trial) -> None:
    assert trial.ask(AGAIN_SECONDS) == [NODE]
    assert not trial.lost
    trial.trial.answered()
    assert (trial.lost, trial.pair.client, trial.pair.endpoint) == (True, "10.244.1.5", Endpoint("10.244.2.5", 53))
    assert trial.ask(10.0, 20.0) == [NODE] * 2


def test_an_answer_that_was_only_late_brings_the_clients_address_back(trial: Trial) -> None:
    trial.ask(AGAIN_SECONDS)
    trial.trial.spare_answered()
    assert (trial.flow.source, trial.pair.answered, trial.lost) == (CLIENT, True, False)
    assert trial.trial.spare is not None, "the second question may yet be answered there"
    trial.trial.spare_answered()
    assert (trial.flow.source, trial.lost) == (CLIENT, False)


def test_an_answer_to_the_client_settles_it(trial: Trial) -> None:
    trial.trial.answered()
    assert trial.pair.answered
    assert trial.ask(1.0, 2.0) == [CLIENT] * 2


def test_an_endpoint_that_never_answers_is_not_judged(trial: Trial) -> None:
    """A log server: of a datagram each second for an hour, those of a few moments come from the node's address."""
    seen = trial.ask(*(number / 10 for number in range(1, 36_000)))
    assert not trial.lost
    assert not trial.pair.answered
    assert seen[-1] is CLIENT
    assert seen.count(NODE) <= 10 * 10


def test_where_endpoints_are_known_to_answer_there_is_no_pause(trial: Trial) -> None:
    trial.flow.listener.has_answered = True
    step = PATIENCE_SECONDS
    assert trial.ask(step, 2 * step, 3 * step, 4 * step) == [NODE, CLIENT, NODE, CLIENT]


def test_one_flow_of_a_listener_that_was_never_answered_tries_at_a_time() -> None:
    first, second = Trial(), Trial()
    second.flow.listener = first.flow.listener
    second.trial = SourceTrial(second.flow, first.pair, 0.0)
    assert first.ask(0.5) == [NODE]
    assert second.ask(0.6) == [CLIENT]
    first.trial.answered()
    assert second.ask(0.7) == [NODE], "it is known now"


def test_a_pair_without_answers_is_looked_at_by_one_flow_when_it_is_time(trial: Trial) -> None:
    trial.pair.lose(0.0, "10.244.1.6", Endpoint("10.244.2.5", 53), "default/dns")
    due = trial.pair.look_at
    look = SourceTrial(trial.flow, trial.pair, due)
    assert not trial.pair.is_due(due + 100.0), "one looks"
    look.ask(due + 0.3)
    assert trial.flow.source is NODE
    trial.flow.listener.time = due + 0.4
    look.answered()
    assert trial.pair.look_at - due > due, "the next look is later"
    again = SourceTrial(Flow(), trial.pair, trial.pair.look_at)
    again.answered()
    assert (trial.pair.answered, trial.lost) == (True, False)


def test_a_look_that_its_client_gave_up_is_over(trial: Trial) -> None:
    trial.pair.lose(0.0, "10.244.1.6", Endpoint("10.244.2.5", 53), "default/dns")
    look = SourceTrial(trial.flow, trial.pair, 20.0)
    trial.flow.listener.time = 50.0
    look.close()
    assert trial.pair.look_at > 50.0
    assert trial.pair.is_due(trial.pair.look_at)


def test_a_look_that_ends_after_others_were_answered_takes_nothing_back(trial: Trial) -> None:
    trial.pair.lose(0.0, "10.244.1.6", Endpoint("10.244.2.5", 53), "default/dns")
    look = SourceTrial(trial.flow, trial.pair, 20.0)
    trial.pair.answer()
    look.close()
    assert (trial.pair.answered, trial.lost) == (True, False)


def test_what_others_have_found_out_counts(trial: Trial) -> None:
    trial.ask(AGAIN_SECONDS)
    trial.pair.answer()
    assert trial.ask(0.3) == [CLIENT]
    assert trial.trial.decided


def test_a_client_that_is_refused_was_answered(trial: Trial) -> None:
    assert not trial.trial.fails(errno.ECONNREFUSED, 0.0)
    assert trial.pair.answered


@pytest.mark.parametrize("number", REFUSALS)
def test_what_this_node_does_not_let_out_goes_from_its_own_address_at_once(trial: Trial, number: int) -> None:
    assert trial.trial.fails(number, 0.0)
    assert trial.flow.source is NODE
    assert not trial.trial.fails(number, 0.0), "that one is not the client's"
    trial.trial.answered()
    assert trial.lost


@pytest.mark.parametrize("number", [errno.EHOSTUNREACH, errno.EACCES, errno.EMSGSIZE, errno.ENOBUFS, None])
def test_other_errors_say_nothing_of_the_address(trial: Trial, number: int | None) -> None:
    assert not trial.trial.fails(number, 0.0)
    assert trial.flow.source is CLIENT


def test_a_client_whom_a_filter_refuses_is_not_let_in_by_the_nodes_address(trial: Trial) -> None:
    """Others of its pair have been answered: the way back is there."""
    trial.pair.answer()
    for number in REFUSALS:
        assert not trial.trial.fails(number, 1.0)
    assert trial.ask(1.0, 2.0, 3.0) == [CLIENT] * 3


def test_without_a_descriptor_for_it_there_is_no_trial() -> None:
    trial = Trial(spares=0)
    assert trial.ask(1.0, 2.0) == [CLIENT] * 2
    assert not trial.trial.fails(errno.EPERM, 2.0)


def test_its_second_socket_is_closed_once(trial: Trial) -> None:
    trial.ask(AGAIN_SECONDS)
    trial.trial.close()
    trial.trial.close()
    assert [sock.fileno() >= 0 for sock in trial.flow.sockets] == [False, True]


def test_pauses_double_up_to_ten_minutes_and_end_with_other_endpoints() -> None:
    pauses, now, waits = Pauses(), 0.0, []
    for _ in range(6):
        assert pauses.begin("pair", now)
        assert not pauses.begin("pair", now)
        pauses.in_vain("pair", now)
        began = now
        while not pauses.begin("pair", now):
            now += 1.0
        waits.append(now - began)
        now += 100.0
        pauses.in_vain("pair", now)
        pauses.clear()
    assert waits[0] == 60.0


def test_pauses_of_many_pairs_are_forgotten_from_the_oldest_on() -> None:
    pauses = Pauses()
    for number in range(2000):
        assert pauses.begin(number, 0.0)
    assert pauses.begin(0, 0.0)
    assert not pauses.begin(1999, 0.0)
