"""Passive ejection: who is ejected, for how long, and how they come back."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.routing.balancers.pools import Busy, endpoints
from userproxy.model import BalancerName, Ejection, Endpoint, ListenerName, Protocol, ServicePortName, Snapshot, Verdict
from userproxy.routing.balancer import SUSPECT_SECONDS, Balancer
from userproxy.routing.balancers.board import BalancerBoard
from userproxy.routing.balancers.ejections import TRIAL_SECONDS, Ejected, Ejections

A, B, C, D = endpoints(4)
RULE = Ejection(3, 30.0)
TCP = ListenerName(ServicePortName("default", "web", "http", Protocol.TCP))
UDP = ListenerName(ServicePortName("default", "dns", "dns", Protocol.UDP))


def ejections(
    count: int = 4, rule: Ejection = RULE, loads: dict[Endpoint, Busy] | None = None, *, tcp: bool = True
) -> Ejections:
    found = Ejections(loads if loads is not None else {}, accepting_counts=tcp)
    found.follow(endpoints(count), rule)
    return found


def fail(its: Ejections, endpoint: Endpoint, *times: float, by_reset: bool = False) -> Ejected | None:
    found = None
    for now in times:
        found = its.failed(endpoint, now, "Connection refused", by_reset=by_reset)
    return found


class TestStreaks:
    def test_so_many_in_a_row_and_no_fewer(self) -> None:
        its = ejections()
        assert fail(its, A, 0.0, 1.0) is None
        assert fail(its, A, 2.0) == Ejected(A, 2.0, 32.0, "3 failures in a row: Connection refused")
        assert its.avoided(2.0) == [A]

    def test_one_may_be_enough(self) -> None:
        assert fail(ejections(rule=Ejection(1, 5.0)), A, 1.0) == Ejected(A, 1.0, 6.0, "a failure: Connection refused")

    def test_others_do_not_count(self) -> None:
        its = ejections()
        fail(its, A, 0.0, 1.0)
        assert fail(its, B, 2.0) is None

    def test_an_accepted_connection_between_them_ends_the_row(self) -> None:
        loads = {A: Busy()}
        its = ejections(loads=loads)
        fail(its, A, 0.0, 1.0)
        loads[A].total += 1
        assert fail(its, A, 2.0, 3.0) is None
        assert fail(its, A, 4.0) is not None

    def test_a_reset_is_no_success_because_it_was_accepted(self) -> None:
        loads = {A: Busy()}
        its = ejections(loads=loads)
        for now in (0.0, 1.0, 2.0):
            loads[A].total += 1
            found = fail(its, A, now, by_reset=True)
        assert found is not None
        assert found.by_reset

    def test_an_answer_between_resets_ends_the_row(self) -> None:
        loads = {A: Busy()}
        its = ejections(loads=loads)
        fail(its, A, 0.0, 1.0, by_reset=True)
        loads[A].bytes_down += 1
        assert fail(its, A, 2.0, by_reset=True) is None

    def test_kinds_have_rows_of_their_own(self) -> None:
        its = ejections()
        fail(its, A, 0.0, 1.0)
        assert fail(its, A, 2.0, 3.0, by_reset=True) is None
        assert fail(its, A, 4.0) is not None

    def test_what_lies_further_apart_than_an_ejection_is_no_row(self) -> None:
        its = ejections()
        assert fail(its, A, 0.0, 31.0, 62.0, 93.0) is None
        assert fail(its, A, 123.0, 153.0) is not None

    def test_of_flows_only_an_answer_is_a_success(self) -> None:
        loads = {A: Busy()}
        its = ejections(loads=loads, tcp=False)
        for now in (0.0, 1.0, 2.0):
            loads[A].total += 1
            found = fail(its, A, now)
        assert found is not None


class TestHalf:
    @pytest.mark.parametrize(("count", "most"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)])
    def test_never_more_than_half(self, count: int, most: int) -> None:
        its = ejections(count)
        for endpoint in endpoints(count):
            fail(its, endpoint, 0.0, 1.0, 2.0)
        assert len(its) == most

    def test_who_would_be_one_too_many_is_known(self) -> None:
        its = ejections(2)
        fail(its, A, 0.0, 1.0, 2.0)
        fail(its, B, 0.0, 1.0)
        assert not its.is_spent(B)
        fail(its, B, 2.0)
        assert its.is_spent(B)

    def test_where_others_leave_the_first_come_back(self) -> None:
        its = ejections(4)
        fail(its, B, 0.0, 1.0, 2.0)
        fail(its, A, 1.0, 2.0, 3.0)
        its.follow([A, B], RULE)
        assert [each.endpoint for each in its] == [A]
        its.follow([A], RULE)
        assert len(its) == 0

    def test_who_is_gone_is_forgotten(self) -> None:
        its = ejections(4)
        fail(its, A, 0.0, 1.0, 2.0)
        fail(its, B, 0.0, 1.0)
        its.follow([C, D], RULE)
        its.follow([A, B, C, D], RULE)
        assert len(its) == 0
        assert fail(its, B, 2.0) is None


class TestTrial:
    def ejected(self, *, by_reset: bool = False, tcp: bool = True) -> tuple[Ejections, Busy]:
        load = Busy()
        its = ejections(loads={A: load}, tcp=tcp)
        for now in (0.0, 0.0, 0.0):
            load.total += by_reset or not tcp
            fail(its, A, now, by_reset=by_reset)
        assert its.avoided(29.9) == [A]
        assert its.avoided(30.0) == []
        its.chosen(A, 30.0)
        assert its.avoided(30.1) == [A], "one connection at a time"
        return its, load

    def test_one_that_is_accepted_brings_it_back(self) -> None:
        its, load = self.ejected()
        load.total += 1
        assert its.avoided(30.2) == []
        its.refresh(30.2)
        assert len(its) == 0

    def test_one_that_fails_prolongs_it(self) -> None:
        its, _ = self.ejected()
        assert fail(its, A, 30.25) == Ejected(A, 0.0, 60.25, "3 failures in a row: Connection refused")
        assert its.avoided(60.0) == [A]
        assert its.avoided(60.25) == []

    def test_one_of_which_nothing_is_heard_is_followed_by_another(self) -> None:
        its, _ = self.ejected()
        assert its.avoided(30.0 + TRIAL_SECONDS) == []
        its.refresh(30.0 + TRIAL_SECONDS)
        assert len(its) == 1

    def test_after_resets_being_accepted_is_not_enough_at_once(self) -> None:
        its, load = self.ejected(by_reset=True)
        load.total += 1
        assert its.avoided(30.2) == [A]
        its.refresh(30.0 + TRIAL_SECONDS)
        assert len(its) == 0

    def test_after_resets_an_answer_is(self) -> None:
        its, load = self.ejected(by_reset=True)
        load.total, load.bytes_down = load.total + 1, 5
        its.refresh(30.2)
        assert len(its) == 0

    def test_after_resets_another_one_prolongs_it(self) -> None:
        its, load = self.ejected(by_reset=True)
        load.total += 1
        found = fail(its, A, 30.2, by_reset=True)
        assert found is not None
        assert (found.since, found.until) == (0.0, 60.2)

    def test_a_flow_that_is_not_refused_is_a_success(self) -> None:
        its, load = self.ejected(tcp=False)
        load.total += 1
        assert its.avoided(30.2) == [A]
        its.refresh(30.0 + TRIAL_SECONDS)
        assert len(its) == 0

    def test_a_connection_from_before_that_fails_late_changes_nothing(self) -> None:
        its = ejections()
        fail(its, A, 0.0, 0.0, 0.0)
        assert fail(its, A, 2.0) is None
        assert its.avoided(29.9) == [A]
        assert its.avoided(30.0) == []


def a_balancer(
    *of: Endpoint,
    rule: Ejection | None = RULE,
    name: str = "round-robin",
    affinity: int | None = None,
    listener: ListenerName = TCP,
) -> tuple[Balancer, dict[Endpoint, Busy], BalancerBoard]:
    board, loads = BalancerBoard(), {each: Busy() for each in of}
    balancer = Balancer(Random(1), board=board)
    balancer.update(Snapshot(listener, Verdict.SERVE, of, affinity, balancer=name, ejection=rule))
    balancer.watch(loads)
    return balancer, loads, board


class TestBalancer:
    @pytest.mark.parametrize("name", BalancerName)
    def test_an_ejected_endpoint_gets_nobody_until_its_trial(self, name: str) -> None:
        balancer, loads, _ = a_balancer(A, B, C, name=name)
        clients = [f"10.1.0.{n}" for n in range(60)]
        assert [balancer.suspect(A, 0.0, "refused") for _ in range(3)] == ["", "", "ejected for 30 s"]
        assert A not in {balancer.pick(client, 29.0) for client in clients}
        assert [balancer.pick(client, 30.0) for client in clients].count(A) == 1
        loads[A].total += 1
        assert [balancer.pick(client, 30.1) for client in clients].count(A) >= 1
        assert balancer.ejected(30.1) == ()

    def test_failures_before_pass_nothing_over(self) -> None:
        balancer, _, _ = a_balancer(A, B)
        balancer.suspect(A, 0.0, "refused")
        assert {balancer.pick("c", 0.1) for _ in range(2)} == {A, B}

    def test_without_a_rule_it_is_as_ever(self) -> None:
        balancer, _, _ = a_balancer(A, B, rule=None)
        assert [balancer.suspect(A, 0.0, "refused") for _ in range(5)] == [""] * 5
        assert balancer.reset_early(B, 0.0) == ""
        assert {balancer.pick("c", SUSPECT_SECONDS - 0.1) for _ in range(4)} == {B}
        assert balancer.ejected(1.0) == ()

    def test_beyond_half_of_them_the_rule_of_five_seconds_counts(self) -> None:
        balancer, _, _ = a_balancer(A, B)
        for endpoint in (A, B):
            for _ in range(3):
                balancer.suspect(endpoint, 0.0, "refused")
        assert [each.endpoint for each in balancer.ejected(0.0)] == [A]
        assert balancer.passed_over(B, 1.0) == 4.0
        assert balancer.pick("c", 1.0) == B, "a suspect comes before who is ejected"
        assert balancer.pick("c", 1.0, (B,)) == A

    def test_who_sticks_to_it_gets_another_one_and_keeps_that(self) -> None:
        balancer, _, _ = a_balancer(A, B, C, D, affinity=3600)
        first = balancer.pick("c", 0.0)
        assert first is not None
        for _ in range(3):
            balancer.suspect(first, 1.0, "refused")
        assert balancer.peek("c", 2.0).endpoint != first
        second = balancer.pick("c", 2.0)
        assert second != first
        assert balancer.pick("c", 40.0) == second

    def test_resets_before_a_byte_eject_it(self) -> None:
        balancer, _, _ = a_balancer(A, B)
        assert [balancer.reset_early(A, 0.0) for _ in range(3)] == ["", "", "ejected for 30 s"]
        (found,) = balancer.ejected(1.0)
        assert found.reason == "3 failures in a row: connections are reset before a byte comes"

    def test_episodes_are_counted_not_their_prolongations(self) -> None:
        balancer, loads, _ = a_balancer(A, B)
        for _ in range(3):
            balancer.suspect(A, 0.0, "refused")
        for trial in (30.0, 60.0):
            while balancer.pick("c", trial) != A:
                pass
            assert balancer.suspect(A, trial, "refused") == "ejected for 30 s"
        assert balancer.ejections == 1
        while balancer.pick("c", 90.0) != A:
            pass
        loads[A].total += 1
        assert balancer.ejected(90.1) == ()
        for _ in range(3):
            balancer.suspect(A, 91.0, "refused")
        assert balancer.ejections == 2

    def test_the_board_has_those_who_have_ejected_somebody(self) -> None:
        balancer, _, board = a_balancer(A, B, listener=UDP)
        assert board.ejected(0.0) == []
        for _ in range(3):
            balancer.suspect(A, 0.0, "refused")
        ((name, its, ejected),) = board.ejected(1.0)
        assert (name, its, ejected.endpoint) == (UDP, balancer, A)
        balancer.update(Snapshot(UDP, Verdict.SERVE, (A, B)))
        assert board.ejected(2.0) == []

    def test_a_closed_listener_has_nothing_more_to_tell(self) -> None:
        balancer, _, board = a_balancer(A, B)
        for _ in range(3):
            balancer.suspect(A, 0.0, "refused")
        balancer.retire()
        assert board.ejected(1.0) == []
        assert not board._ejecting, "else each Service that is deleted leaves one"

    def test_another_process_goes_on(self) -> None:
        balancer, _, _ = a_balancer(A, B)
        for _ in range(3):
            balancer.suspect(A, 0.0, "refused")
        board = BalancerBoard()
        other = Balancer(Random(2), board=board)
        other.restore(balancer.state())
        other.update(Snapshot(TCP, Verdict.SERVE, (A, B), ejection=RULE))
        assert other.state() == balancer.state()
        assert len(board.ejected(1.0)) == 1
        assert {other.pick("c", 29.0) for _ in range(4)} == {B}
        other.restore(balancer.state())
        assert {other.pick("c", 29.0) for _ in range(4)} == {B}

    def test_what_is_asked_says_that_it_is_a_trial(self) -> None:
        balancer, _, _ = a_balancer(A, B, name="first-available")
        for _ in range(3):
            balancer.suspect(A, 0.0, "refused")
        assert balancer.peek("c", 1.0).endpoint == B
        choice = balancer.peek("c", 30.0)
        assert choice.endpoint == A
        assert choice.reason.endswith(", and this will be its trial")


steps = st.lists(
    st.tuples(
        st.sampled_from(["pick", "fail", "reset", "accept", "answer"]),
        st.integers(0, 3),
        st.sampled_from((0.0, 0.5, 3.0, 31.0)),
    ),
    max_size=60,
)


@given(st.integers(1, 4), st.sampled_from(BalancerName), steps)
def test_whatever_happens_half_are_left_and_what_is_asked_comes(
    count: int, name: str, history: list[tuple[str, int, float]]
) -> None:
    its = endpoints(count)
    balancer, loads, _ = a_balancer(*its, name=name, rule=Ejection(2, 30.0))
    now = 0.0
    for what, which, pause in history:
        now += pause
        endpoint = its[which % count]
        match what:
            case "pick":
                asked = balancer.peek("10.1.0.1", now).endpoint
                assert balancer.pick("10.1.0.1", now) == asked
            case "fail":
                balancer.suspect(endpoint, now, "refused")
            case "reset":
                loads[endpoint].total += 1
                balancer.reset_early(endpoint, now)
            case "accept":
                loads[endpoint].total += 1
            case "answer":
                loads[endpoint].bytes_down += 1
        assert len(balancer.ejected(now)) <= count // 2
