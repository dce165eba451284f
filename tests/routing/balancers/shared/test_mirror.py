"""What a balancer does with endpoints that another process ejects, and what it tells that one."""

from random import Random

from msgspec import structs

from tests.routing.balancers.pools import endpoints
from userproxy.model import BalancerName, Ejection, Endpoint, ListenerName, Protocol, ServicePortName, Snapshot, Verdict
from userproxy.routing.balancer import SUSPECT_SECONDS, Balancer
from userproxy.routing.balancers.board import BalancerBoard
from userproxy.routing.balancers.ejections import Ejected

A, B, C = endpoints(3)
NAME = ListenerName(ServicePortName("default", "web", "http", Protocol.TCP))
OUT = Ejected(A, 0.0, 30.0, "3 failures in a row: Connection refused")


class Told:
    """What was told, and whether anybody hears it."""

    def __init__(self) -> None:
        self.hears = True
        self.words: list[tuple[object, ...]] = []

    def failed(self, listener: ListenerName, endpoint: Endpoint, reason: str, *, by_reset: bool) -> None:
        self.words.append(("failed", endpoint, reason, by_reset))

    def suspected(self, listener: ListenerName, endpoint: Endpoint, until: float) -> None:
        self.words.append(("suspected", endpoint, until))

    def tries(self, listener: ListenerName, endpoint: Endpoint) -> None:
        self.words.append(("tries", endpoint))


RULE = Ejection(3, 30.0)


def balancer(ejection: Ejection | None = RULE) -> tuple[Balancer, Told]:
    board, told = BalancerBoard(), Told()
    board.decider = told
    found = Balancer(Random(1), board=board)
    snapshot = Snapshot(NAME, Verdict.SERVE, (A, B, C), ejection=ejection, balancer=BalancerName.FIRST_AVAILABLE)
    found.update(snapshot)
    return found, told


def test_failures_are_told_and_decided_elsewhere() -> None:
    its, told = balancer()
    for _ in range(5):
        assert its.suspect(A, 1.0, "Connection refused") == ""
    its.reset_early(B, 1.0)
    assert told.words == [("failed", A, "Connection refused", False)] * 5 + [
        ("failed", B, "connections are reset before a byte comes", True)
    ]
    assert its.pick("c", 1.0) == A


def test_an_ejected_one_gets_nobody_until_its_trial_is_to_be_here() -> None:
    its, told = balancer()
    its.eject(OUT, counts=True)
    mirrored = its.mirrored
    assert mirrored is not None
    assert (its.ejections, its.ejected(1.0), its.pick("c", 1.0), its.pick("c", 1000.0)) == (1, (OUT,), B, B)
    mirrored.have_trial(A, here=True)
    assert its.peek("c", 31.0).reason.endswith("and this will be its trial")
    assert (its.pick("c", 31.0), its.pick("c", 31.0)) == (A, B), "one connection alone"
    assert told.words == [("tries", A)]
    mirrored.have_trial(A, here=True)
    mirrored.have_trial(A, here=False)
    assert its.pick("c", 31.0) == B
    mirrored.take_back(A)
    assert (its.pick("c", 31.0), its.ejected(31.0)) == (A, ())


def test_where_nobody_decides_any_more_each_process_does_as_without_the_annotation() -> None:
    its, told = balancer()
    its.eject(OUT, counts=False)
    told.hears = False
    assert its.ejections == 0
    assert (its.pick("c", 29.0), its.pick("c", 31.0)) == (B, A)
    its.suspect(A, 31.0)
    assert (its.pick("c", 31.0), its.pick("c", 31.0 + SUSPECT_SECONDS)) == (B, A)


def test_endpoints_that_go_are_ejected_no_more() -> None:
    its, _ = balancer()
    its.eject(OUT, counts=False)
    for members in ((B, C), (A, B, C)):
        its.update(Snapshot(NAME, Verdict.SERVE, members, ejection=Ejection(3, 30.0)))
    assert its.ejected(1.0) == ()
    its.eject(Ejected(Endpoint("10.9.9.9", 1), 0.0, 9.0, ""), counts=True)
    assert (its.ejected(1.0), its.ejections) == ((), 0), "it is none of the listener's"


def test_what_is_ejected_goes_along_to_another_process() -> None:
    its, _ = balancer()
    its.eject(OUT, counts=True)
    other, _ = balancer()
    other.restore(its.state())
    assert (other.ejected(1.0), other.pick("c", 1.0), other.ejections) == ((OUT,), B, 1)
    other.restore(structs.replace(its.state(), ejections=0))  # of another process, which is counted elsewhere
    assert other.ejections == 1


def test_by_default_others_are_told_whom_to_pass_over() -> None:
    its, told = balancer(None)
    its.suspect(A, 1.0)
    assert told.words == [("suspected", A, 1.0 + SUSPECT_SECONDS)]
    other, _ = balancer(None)
    other.pass_over(A, 6.0)
    other.pass_over(A, 3.0)
    other.pass_over(Endpoint("10.9.9.9", 1), 6.0)
    assert (other.pick("c", 5.9), other.pick("c", 6.0)) == (B, A)
