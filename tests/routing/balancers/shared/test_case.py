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


def fail(its: EjectionCase, endpoint: Endpoint, now: float, times: int = 1) -> Ejected | None:
    return its.failed(endpoint, now, "Connection refused", times, by_reset=False)


def test_failures_of_all_processes_count_together() -> None:
    its = case()
    its.tell(ONE, A, 5, 0)
    assert fail(its, A, 0.0) is None
    its.tell(TWO, A, 7, 0)
    its.tell(ONE, A, 5, 0)
    assert fail(its, A, 1.0) is None, "there was a connection of the other process, which has just told of it"
    assert fail(its, A, 2.0) is None
    assert fail(its, A, 3.0) is not None


def test_a_success_in_another_process_ends_the_row() -> None:
    its = case()
    for place in (ONE, TWO):
        its.tell(place, A, 0, 0)
    fail(its, A, 0.0, times=2)
    its.tell(TWO, A, 1, 0)
    assert fail(its, A, 1.0, times=2) is None
    assert fail(its, A, 2.0) == Ejected(A, 2.0, 32.0, "3 failures in a row: Connection refused")


def test_as_many_at_once_as_the_rule_says_eject_once() -> None:
    assert fail(case(), A, 1.0, times=1_000_000) == Ejected(A, 1.0, 31.0, "3 failures in a row: Connection refused")


def test_never_more_than_half_and_the_next_one_is_spent() -> None:
    its = case(2)
    assert fail(its, A, 0.0, times=3) is not None
    assert fail(its, B, 0.0, times=3) is None
    assert (len(its), its.is_spent(B), its.is_spent(A)) == (1, True, False)


def test_others_are_asked_only_where_what_they_say_matters() -> None:
    its = case()
    assert its.needs_others(A)
    fail(its, A, 0.0, times=3)
    assert not its.needs_others(A)
    assert not case(rule=Ejection(1, 5.0)).needs_others(A)


def test_a_trial_that_succeeds_brings_back_and_one_that_fails_ejects_once_more() -> None:
    its = case()
    its.tell(ONE, A, 0, 0)
    fail(its, A, 0.0, times=3)
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
    fail(its, A, 0.0, times=3)
    its.tries(A, 31.0, ONE)
    assert its.look(A, 31.0 + TRIAL_SECONDS)
    assert not its.is_tried(A, 31.0 + TRIAL_SECONDS)


def test_what_a_process_has_done_that_has_ended_is_not_undone() -> None:
    its = case()
    its.tell(ONE, A, 9, 0)
    its.tell(TWO, A, 4, 0)
    fail(its, A, 0.0, times=2)
    its.gone(ONE)
    its.tell(ONE, A, 0, 0)  # the next one at its place
    assert fail(its, A, 1.0) is not None, "nothing has succeeded"
    its.gone(ONE)
    load = ToldLoad()
    load.tell(ONE, 3, 100)
    load.gone(ONE)
    load.tell(ONE, 1, 10)
    assert (load.total, load.bytes_down) == (4, 110)


def test_endpoints_that_go_are_told_and_forgotten() -> None:
    its = case()
    fail(its, A, 0.0, times=3)
    fail(its, B, 0.0, times=3)
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


def test_a_failure_of_an_endpoint_that_has_left_meanwhile_ejects_nobody() -> None:
    """A data process tells of it later, and others are asked before it counts: the snapshot is another one by then."""
    its = case()
    its.follow([A, B], RULE)
    assert fail(its, C, 0.0, times=3) is None
    assert (len(its), its.is_spent(C)) == (0, False)
    assert fail(its, A, 0.0, times=3) is not None, "one of two may be"


def test_an_endpoint_that_has_left_is_not_ejected_because_a_process_has_known_it_so() -> None:
    its = case(2)
    assert its.restore([Ejected(C, 0.0, 30.0, "it was")]) == []
    assert fail(its, A, 1.0, times=3) is not None, "one of two may be"


def test_what_another_process_had_of_an_endpoint_before_is_no_success_of_its_trial() -> None:
    """A connection from before the ejection fails there meanwhile, and with that it tells for the first time."""
    its = case()
    its.tell(ONE, A, 0, 0)
    fail(its, A, 0.0, times=3)
    its.tries(A, 31.0, ONE)
    its.tell(TWO, A, 50, 1000)
    assert fail(its, A, 31.5) == Ejected(A, 0.0, 61.5, "3 failures in a row: Connection refused")
    its.tries(A, 62.0, TWO)
    its.tell(TWO, A, 51, 1000)
    assert not its.look(A, 62.2)
