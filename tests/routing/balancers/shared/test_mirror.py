"""What a balancer does with endpoints that another process ejects, and what it tells that one."""

from random import Random

from msgspec import structs

from tests.routing.balancers.pools import endpoints
from tests.routing.balancers.shared.cells import PlainCells
from userproxy.model import BalancerName, Ejection, Endpoint, ListenerName, Protocol, ServicePortName, Snapshot, Verdict
from userproxy.routing.balancer import SUSPECT_SECONDS, Balancer
from userproxy.routing.balancers.board import BalancerBoard
from userproxy.routing.balancers.ejections import Ejected
from userproxy.routing.balancers.shared.rows import Cells

A, B, C = endpoints(3)
NAME = ListenerName(ServicePortName("default", "web", "http", Protocol.TCP))
OUT = Ejected(A, 0.0, 30.0, "3 failures in a row: Connection refused")


class Told:
    """What was told, and whether anybody hears it."""

    def __init__(self) -> None:
        self.hears = True
        self.words: list[tuple[object, ...]] = []
        self.all_cells = PlainCells((A, B, C))

    def cells(self, listener: ListenerName) -> Cells:
        return self.all_cells

    def ejects(self, listener: ListenerName, ejected: Ejected) -> None:
        self.words.append(("ejects", ejected))

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


def test_the_last_failure_of_all_processes_ejects_at_once_and_that_is_told() -> None:
    its, told = balancer()
    assert [its.suspect(A, 1.0, "Connection refused") for _ in range(2)] == ["", ""]
    assert (told.words, its.pick("c", 1.0)) == ([], A)
    assert its.suspect(A, 1.0, "Connection refused") == "ejected for 30 s"
    found = Ejected(A, 1.0, 31.0, "3 failures in a row: Connection refused")
    assert told.words == [("ejects", found)]
    assert (its.pick("c", 1.0), its.ejected(1.0), its.ejections) == (B, (found,), 1)
    assert its.suspect(A, 2.0) == "", "it is of a connection from before"


def test_what_would_be_more_than_half_is_passed_over_and_others_are_told() -> None:
    its, told = balancer()
    told.all_cells[B].is_out = True  # by another process, of which we have not heard
    assert [its.suspect(A, 1.0) for _ in range(3)] == [""] * 3
    assert told.words == [("suspected", A, 1.0 + SUSPECT_SECONDS)]
    its.suspect(B, 1.0)
    assert told.words[1:] == [("suspected", B, 1.0 + SUSPECT_SECONDS)]
    assert its.pick("c", 1.0) == C
    its.eject(Ejected(B, 0.0, 30.0, ""))
    assert its.passed_over(B, 1.0) == 29.0, "not for 5 s more when it comes back"


def test_a_trial_that_fails_says_so_at_once_and_is_told() -> None:
    its, told = balancer()
    its.eject(OUT)
    mirrored = its.mirrored
    assert mirrored is not None
    mirrored.have_trial(A, here=True)
    assert its.pick("c", 31.0) == A
    assert its.reset_early(A, 31.1) == "", "it was accepted, which is a success"
    assert its.suspect(A, 31.2, "Connection refused") == "ejected for 30 s"
    assert its.ejections == 0, "the episode is counted once"
    assert told.words == [
        ("tries", A),
        ("failed", A, "connections are reset before a byte comes", True),
        ("failed", A, "Connection refused", False),
    ]
    assert its.suspect(A, 31.3) == ""


def test_an_ejected_one_gets_nobody_until_its_trial_is_to_be_here() -> None:
    its, told = balancer()
    its.eject(OUT)
    mirrored = its.mirrored
    assert mirrored is not None
    assert (its.ejections, its.ejected(1.0), its.pick("c", 1.0), its.pick("c", 1000.0)) == (0, (OUT,), B, B)
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
    its.eject(OUT)
    told.hears = False
    assert its.ejections == 0
    assert (its.pick("c", 29.0), its.pick("c", 31.0)) == (B, A)
    its.suspect(A, 31.0)
    assert (its.pick("c", 31.0), its.pick("c", 31.0 + SUSPECT_SECONDS)) == (B, A)


def test_endpoints_that_go_are_ejected_no_more() -> None:
    its, _ = balancer()
    its.eject(OUT)
    for members in ((B, C), (A, B, C)):
        its.update(Snapshot(NAME, Verdict.SERVE, members, ejection=Ejection(3, 30.0)))
    assert its.ejected(1.0) == ()
    its.eject(Ejected(Endpoint("10.9.9.9", 1), 0.0, 9.0, ""))
    assert (its.ejected(1.0), its.ejections) == ((), 0), "it is none of the listener's"


def test_what_is_ejected_goes_along_to_another_process() -> None:
    its, _ = balancer()
    its.eject(OUT)
    other, _ = balancer()
    other.restore(its.state())
    assert (other.ejected(1.0), other.pick("c", 1.0), other.ejections) == ((OUT,), B, 0)
    other.restore(structs.replace(its.state(), ejections=2))
    other.restore(its.state())  # of another process, which is counted elsewhere
    assert other.ejections == 2


def test_by_default_others_are_told_whom_to_pass_over() -> None:
    its, told = balancer(None)
    its.suspect(A, 1.0)
    assert told.words == [("suspected", A, 1.0 + SUSPECT_SECONDS)]
    other, _ = balancer(None)
    other.pass_over(A, 6.0)
    other.pass_over(A, 3.0)
    other.pass_over(Endpoint("10.9.9.9", 1), 6.0)
    assert (other.pick("c", 5.9), other.pick("c", 6.0)) == (B, A)
