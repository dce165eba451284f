"""Which endpoints are ejected by what several processes tell, and how they come back."""

from tests.routing.balancers.pools import endpoints
from userproxy.model import Ejection, Endpoint
from userproxy.routing.balancers.ejections import TRIAL_SECONDS, Ejected
from userproxy.routing.balancers.shared.case import EjectionCase, ToldLoad, usable_of

A, B, C, D = endpoints(4)
RULE = Ejection(3, 30.0)
ONE, TWO = 1, 2


def case(count: int = 4, rule: Ejection = RULE) -> EjectionCase:
    found = EjectionCase(accepting_counts=True)
    found.follow(endpoints(count), rule)
    return found


def fail(its: EjectionCase, endpoint: Endpoint, now: float) -> Ejected | None:
    return its.failed(endpoint, now, "Connection refused", by_reset=False)


def eject(its: EjectionCase, endpoint: Endpoint, now: float = 0.0) -> bool:
    return its.eject(Ejected(endpoint, now, now + 30.0, "3 failures in a row: Connection refused"))


def test_never_more_than_half_and_none_that_has_left() -> None:
    its = case(2)
    assert not eject(its, C)
    assert eject(its, A)
    assert not eject(its, B)
    assert len(its) == 1
    assert fail(its, B, 1.0) is None, "data processes count failures of those that are not ejected"


def test_what_a_process_has_done_that_has_ended_is_not_undone() -> None:
    load = ToldLoad()
    load.tell(ONE, 3, 100)
    load.gone(ONE)
    load.tell(ONE, 1, 10)
    assert (load.total, load.bytes_down) == (4, 110)


def test_a_trial_that_succeeds_brings_back_and_one_that_fails_ejects_once_more() -> None:
    its = case()
    its.tell(ONE, A, 0, 0)
    eject(its, A)
    assert fail(its, A, 10.0) is None, "it is of a connection from before"
    its.tries(A, 31.0, ONE)
    assert its.is_tried(A, 31.0)
    assert fail(its, A, 31.5) == Ejected(A, 0.0, 61.5, "3 failures in a row: Connection refused")
    assert not its.is_tried(A, 31.5)
    its.tries(A, 62.0, ONE)
    assert its.look(A, 62.1)
    its.tell(ONE, A, 1, 0)
    assert not its.look(A, 62.2)
    assert its.get(A) is None


def test_a_trial_of_which_nothing_is_heard_is_over_in_the_end() -> None:
    its = case()
    eject(its, A)
    its.tries(A, 31.0, ONE)
    assert its.look(A, 31.0 + TRIAL_SECONDS)
    assert not its.is_tried(A, 31.0 + TRIAL_SECONDS)


def test_endpoints_that_go_are_told_and_forgotten() -> None:
    its = case()
    eject(its, A)
    eject(its, B)
    assert its.follow([B, C, D], RULE) == [A]
    assert [each.endpoint for each in its.ejected] == [B]
    assert its.follow([B, C], RULE) == []
    assert its.follow([B], RULE) == [B]


def test_what_another_control_process_has_ejected_is_so_still() -> None:
    its = case()
    known = [Ejected(each, 0.0, 9.0, "3 failures in a row: Connection refused") for each in (A, B, C)]
    assert its.restore(known) == known[:2], "no more than half"
    assert its.restore(known[:2]) == []
    assert its.ejected == tuple(known[:2])


def test_who_gets_new_connections() -> None:
    assert usable_of((A, B), ()) == (A, B)
    assert usable_of((A, B), (0, 3)) == [B]
    assert usable_of((A, B), (0, 0)) == (A, B)


def test_an_endpoint_that_has_left_is_not_ejected_because_a_process_has_known_it_so() -> None:
    its = case(2)
    assert its.restore([Ejected(C, 0.0, 30.0, "it was")]) == []
    assert eject(its, A), "one of two may be"


def test_what_another_process_had_of_an_endpoint_before_is_no_success_of_its_trial() -> None:
    """A connection from before the ejection fails there meanwhile, and with that it tells for the first time."""
    its = case()
    its.tell(ONE, A, 0, 0)
    eject(its, A)
    its.tries(A, 31.0, ONE)
    its.tell(TWO, A, 50, 1000)
    assert fail(its, A, 31.5) == Ejected(A, 0.0, 61.5, "3 failures in a row: Connection refused")
    its.tries(A, 62.0, TWO)
    its.tell(TWO, A, 51, 1000)
    assert not its.look(A, 62.2)
