"""Balancers of other packages: asked as they are, and not asked any more once they are faulty."""

from collections.abc import Callable, Collection, Sequence
from random import Random

import pytest

from tests.routing.balancers.pools import endpoints, pool
from userproxy.model import Endpoint, ListenerName, Protocol, ServicePortName, Snapshot, Verdict
from userproxy.routing.balancer import Balancer
from userproxy.routing.balancers.board import BalancerBoard
from userproxy.routing.balancers.custom import MOST_SLOW, SLOW_SECONDS, CustomMethod, MakeChooser

NAME = ListenerName(ServicePortName("default", "web", "http", Protocol.TCP))
A, B, C = its = endpoints(3)


class Last:
    """The last endpoint that is not avoided; counts how often it was asked."""

    def __init__(self, endpoints: Sequence[Endpoint], weights: Sequence[int]) -> None:
        self.endpoints = endpoints
        self.weights = weights
        self.asked = 0

    def choose(self, client: str, avoided: Collection[Endpoint]) -> Endpoint:
        self.asked += 1
        return [each for each in self.endpoints if each not in avoided][-1]


def chooser(choose: Callable[[str, Collection[Endpoint]], object]) -> MakeChooser:
    """A package's balancer that chooses so."""
    return lambda endpoints, weights: type("Its", (), {"choose": lambda self, *asked: choose(*asked)})()


def raising(error: BaseException) -> Callable[[str, Collection[Endpoint]], object]:
    def choose(client: str, avoided: Collection[Endpoint]) -> object:
        raise error

    return choose


class Untellable:
    def __str__(self) -> str:
        raise ValueError


def method(make: MakeChooser, clock: Callable[[], float] = lambda: 0.0) -> tuple[CustomMethod, list[str]]:
    faults: list[str] = []
    return CustomMethod(make, pool(its, [1, 2, 3]), clock, faults.append), faults


def test_it_chooses() -> None:
    found, faults = method(Last)
    assert [found.choose("c", 0.0), found.choose("c", 0.0, (C,))] == [C, B]
    assert faults == []


def test_what_is_asked_beforehand_is_asked_of_a_copy() -> None:
    made: list[Last] = []

    def make(endpoints: Sequence[Endpoint], weights: Sequence[int]) -> Last:
        made.append(Last(endpoints, weights))
        return made[-1]

    found, _ = method(make)
    assert found.peek("c", 0.0, (C,))[0] == B
    assert made[0].asked == 0
    assert (made[0].endpoints, made[0].weights) == (tuple(its), (1, 2, 3))


@pytest.mark.parametrize(
    ("choose", "complaint"),
    [
        (raising(ValueError("no\nidea")), "it raised ValueError: no idea"),
        (raising(SystemExit("bye")), "it raised SystemExit: bye"),
        (raising(RecursionError()), "it raised RecursionError: "),
        (lambda *_: None, "it chose None, which is none of the endpoints"),
        (lambda *_: "10.0.0.1:80", "it chose 10.0.0.1:80, which is none of the endpoints"),
        (lambda *_: Endpoint("10.9.9.9", 80), "it chose 10.9.9.9:80, which is none of the endpoints"),
        (lambda *_: Untellable(), "it chose a Untellable, which is none of the endpoints"),
        (lambda *_: A, f"it chose {A}, which it was to avoid"),
    ],
)
def test_a_faulty_one_is_told_once_and_asked_no_more(
    choose: Callable[[str, Collection[Endpoint]], object], complaint: str
) -> None:
    asked: list[str] = []

    def noting(client: str, avoided: Collection[Endpoint]) -> object:
        asked.append(client)
        return choose(client, avoided)

    found, faults = method(chooser(noting))
    assert found.peek("c", 0.0, (A,))[0] in {B, C}
    asked.clear()
    assert {found.choose("c", 0.0, (A,)) for _ in range(20)} == {B, C}
    assert faults == [complaint]
    assert asked == ["c"]


def test_one_that_cannot_be_made_is_told_once() -> None:
    def make(endpoints: Sequence[Endpoint], weights: Sequence[int]) -> Last:
        raise KeyError("x")

    found, faults = method(make)
    assert {found.choose("c", 0.0) for _ in range(20)} == set(its)
    assert faults == ["it cannot be made: KeyError: 'x'"]


def test_one_that_is_slow_again_and_again_is_asked_no_more() -> None:
    now, pauses = 0.0, [0.0]

    def choose(client: str, avoided: Collection[Endpoint]) -> Endpoint:
        nonlocal now
        now += pauses[0]
        return A

    found, faults = method(chooser(choose), lambda: now)
    for pause in (*[SLOW_SECONDS * 2] * (MOST_SLOW - 1), 0.0, *[SLOW_SECONDS * 2] * (MOST_SLOW - 1)):
        pauses[0] = pause
        assert found.choose("c", 0.0) == A
    assert faults == []
    pauses[0] = 0.0
    found.choose("c", 0.0)
    assert faults == []
    pauses[0] = SLOW_SECONDS * 2
    for _ in range(MOST_SLOW + 5):
        found.choose("c", 0.0)
    assert faults == ["its choices took more than 20 ms, 3 in a row, the last one 0.040 s"]


class Known:
    """The balancers of other packages, of which one becomes known when the test says so."""

    def __init__(self, found: MakeChooser | str | None) -> None:
        self.clock = lambda: 0.0
        self.found = found
        self.waiting: list[Callable[[], None]] = []

    def find(self, name: str, known: Callable[[], None]) -> MakeChooser | str | None:
        assert name == "last"
        if self.found is None:
            self.waiting.append(known)
        return self.found


def a_balancer(custom: Known) -> tuple[Balancer, BalancerBoard]:
    board = BalancerBoard()
    balancer = Balancer(Random(1), board=board, custom=custom)
    balancer.update(Snapshot(NAME, Verdict.SERVE, tuple(its), balancer="last"))
    return balancer, board


class TestBalancer:
    def test_it_is_used(self) -> None:
        balancer, board = a_balancer(Known(Last))
        assert len({balancer.pick("c", 0.0) for _ in range(9)}) == 1
        assert board.faulty() == []

    def test_until_it_is_known_round_robin_serves(self) -> None:
        custom = Known(None)
        balancer, _ = a_balancer(custom)
        assert len({balancer.pick("c", 0.0) for _ in range(9)}) == 3
        custom.found = Last
        for known in custom.waiting:
            known()
        assert len({balancer.pick("c", 0.0) for _ in range(9)}) == 1

    def test_why_there_is_none_is_told_and_round_robin_serves(self) -> None:
        balancer, board = a_balancer(Known("it cannot be imported"))
        assert len({balancer.pick("c", 0.0) for _ in range(9)}) == 3
        assert [(name, its.name, its.fault) for name, its in board.faulty()] == [
            (NAME, "last", "it cannot be imported")
        ]

    def test_a_faulty_one_stays_so_until_the_service_asks_for_another(self) -> None:
        custom = Known(chooser(raising(ValueError("x"))))
        balancer, board = a_balancer(custom)
        balancer.pick("c", 0.0)
        custom.found = Last
        balancer.update(Snapshot(NAME, Verdict.SERVE, (A, B), balancer="last"))
        assert len({balancer.pick("c", 0.0) for _ in range(9)}) == 2
        assert len(board.faulty()) == 1
        balancer.update(Snapshot(NAME, Verdict.SERVE, (A, B)))
        assert board.faulty() == []
        balancer.update(Snapshot(NAME, Verdict.SERVE, (A, B), balancer="last"))
        assert len({balancer.pick("c", 0.0) for _ in range(9)}) == 1

    def test_without_any_there_is_round_robin(self) -> None:
        balancer = Balancer(Random(1))
        balancer.update(Snapshot(NAME, Verdict.SERVE, tuple(its), balancer="last"))
        assert len({balancer.pick("c", 0.0) for _ in range(9)}) == 3
