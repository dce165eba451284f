"""Round-robin, affinity, retries, and what all balancers have in common."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.routing.balancers.pools import Busy
from userproxy.model import (
    BalancerName,
    Endpoint,
    ListenerName,
    Protocol,
    ServicePortName,
    Snapshot,
    TrafficClass,
    Verdict,
)
from userproxy.routing.affinity import AffinityTable
from userproxy.routing.balancer import SUSPECT_SECONDS, Balancer

NAME = ListenerName(ServicePortName("default", "web", "http", Protocol.TCP))
EXTERNAL = ListenerName(NAME.service_port, traffic=TrafficClass.EXTERNAL)
A, B, C = (Endpoint(f"10.0.0.{n}", 80) for n in (1, 2, 3))


def a_balancer(*endpoints: Endpoint, affinity: int | None = None, seed: int = 1) -> Balancer:
    balancer = Balancer(Random(seed))
    balancer.update(Snapshot(NAME, Verdict.SERVE, endpoints, affinity))
    return balancer


def test_without_endpoints_there_is_nothing_to_pick() -> None:
    assert a_balancer().pick("c", 0.0) is None


@given(st.integers(1, 7), st.integers(0, 100), st.integers(0, 1000))
def test_picks_are_spread_evenly(endpoint_count: int, picks: int, seed: int) -> None:
    endpoints = [Endpoint("10.0.0.1", port) for port in range(1, endpoint_count + 1)]
    balancer = a_balancer(*endpoints, seed=seed)
    counts = Counter(balancer.pick("c", 0.0) for _ in range(picks))
    assert max(counts.values(), default=0) - min((counts[e] for e in endpoints), default=0) <= 1


def test_the_order_is_shuffled() -> None:
    endpoints = [Endpoint("10.0.0.1", port) for port in range(1, 20)]
    firsts = {a_balancer(*endpoints, seed=seed).pick("c", 0.0) for seed in range(20)}
    assert len(firsts) > 5


@pytest.mark.parametrize("endpoints", [(A, B), (A, B, C)])
def test_who_has_tried_all_tries_them_in_turn(endpoints: tuple[Endpoint, ...]) -> None:
    balancer = a_balancer(*endpoints)
    assert {balancer.pick("c", 0.0, endpoints) for _ in endpoints} == set(endpoints)


def test_an_update_with_the_same_endpoints_keeps_the_turn() -> None:
    balancer = a_balancer(A, B, C)
    picked = [balancer.pick("c", 0.0)]
    balancer.update(Snapshot(NAME, Verdict.SERVE, (C, B, A)))
    picked += [balancer.pick("c", 0.0), balancer.pick("c", 0.0)]
    assert set(picked) == {A, B, C}


@given(st.permutations([A, B, C]), st.integers(0, 5))
def test_a_connection_gets_every_endpoint_before_any_twice(order: list[Endpoint], others: int) -> None:
    balancer = a_balancer(*order)
    tried: tuple[Endpoint, ...] = ()
    for _ in range(3):
        for _ in range(others):
            balancer.pick("another client", 0.0)
        endpoint = balancer.pick("c", 0.0, tried)
        assert endpoint is not None
        assert endpoint not in tried
        tried += (endpoint,)
    assert balancer.pick("c", 0.0, tried) in {A, B, C}


class TestSuspects:
    def test_an_endpoint_that_failed_is_passed_over_for_a_while(self) -> None:
        balancer = a_balancer(A, B, C)
        balancer.suspect(B, 0.0)
        counts = Counter(balancer.pick("c", SUSPECT_SECONDS - 0.1) for _ in range(100))
        assert counts == {A: 50, C: 50}
        assert {balancer.pick("c", SUSPECT_SECONDS) for _ in range(3)} == {A, B, C}

    def test_if_all_are_suspect_each_gets_its_turn(self) -> None:
        balancer = a_balancer(A, B)
        balancer.suspect(A, 0.0)
        balancer.suspect(B, 0.0)
        assert {balancer.pick("c", 1.0), balancer.pick("c", 1.0)} == {A, B}

    def test_a_suspect_is_tried_before_an_endpoint_twice(self) -> None:
        balancer = a_balancer(A, B)
        balancer.suspect(A, 0.0)
        assert balancer.pick("c", 1.0) == B
        assert [balancer.pick("c", 1.0, (B,)) for _ in range(3)] == [A, A, A]

    def test_a_suspicion_of_an_endpoint_that_is_gone_counts_for_nothing(self) -> None:
        balancer = a_balancer(B, C)
        balancer.suspect(A, 0.0)
        balancer.suspect(B, 0.0)
        assert {balancer.pick("c", 1.0, (A,)) for _ in range(4)} == {C}

    def test_other_endpoints_start_without_suspicion(self) -> None:
        balancer = a_balancer(A, B)
        balancer.suspect(A, 0.0)
        balancer.update(Snapshot(NAME, Verdict.SERVE, (A, C)))
        assert {balancer.pick("c", 1.0), balancer.pick("c", 1.0)} == {A, C}


class TestBalancers:
    """What a snapshot says of the balancer and of weights."""

    def snapshot(self, name: str, *endpoints: Endpoint, weights: tuple[int, ...] = ()) -> Snapshot:
        return Snapshot(NAME, Verdict.SERVE, endpoints, balancer=name, weights=weights)

    def test_another_one_counts_from_the_next_connection_on(self) -> None:
        balancer = a_balancer(A, B, C)
        balancer.update(self.snapshot("first-available", A, B, C))
        assert {balancer.pick("c", 0.0) for _ in range(6)} == {A}
        balancer.update(self.snapshot("round-robin", A, B, C))
        assert {balancer.pick("c", 0.0) for _ in range(3)} == {A, B, C}

    @pytest.mark.parametrize("name", BalancerName)
    def test_without_endpoints_there_is_nothing_to_pick(self, name: str) -> None:
        balancer = Balancer(Random(1))
        balancer.update(self.snapshot(name))
        assert balancer.pick("c", 0.0) is None
        assert balancer.peek("c", 0.0).endpoint is None

    @pytest.mark.parametrize("name", BalancerName)
    def test_an_endpoint_that_failed_is_passed_over_for_a_while(self, name: str) -> None:
        balancer = Balancer(Random(1))
        balancer.update(self.snapshot(name, A, B, C))
        balancer.suspect(A, 0.0)
        assert A not in {balancer.pick(f"10.1.0.{n}", SUSPECT_SECONDS - 0.1) for n in range(50)}
        assert A in {balancer.pick(f"10.1.0.{n}", SUSPECT_SECONDS) for n in range(50)}

    @pytest.mark.parametrize("name", BalancerName)
    def test_if_all_are_suspect_or_tried_somebody_is_picked(self, name: str) -> None:
        balancer = Balancer(Random(1))
        balancer.update(self.snapshot(name, A, B))
        balancer.suspect(A, 0.0)
        balancer.suspect(B, 0.0)
        assert balancer.pick("c", 1.0) in {A, B}
        assert balancer.pick("c", 1.0, (A,)) == B
        assert balancer.pick("c", 1.0, (A, B)) in {A, B}
        assert balancer.peek("c", 1.0, (A, B)).reason.endswith("and all have been tried")

    @pytest.mark.parametrize("name", BalancerName)
    def test_who_has_no_weight_gets_no_connection(self, name: str) -> None:
        balancer = Balancer(Random(1))
        balancer.update(self.snapshot(name, A, B, C, weights=(0, 2, 1)))
        assert A not in {balancer.pick(f"10.1.0.{n}", 0.0) for n in range(50)}
        assert balancer.pick("c", 0.0, (B, C)) in {B, C}

    @pytest.mark.parametrize("name", BalancerName)
    def test_where_nobody_has_a_weight_all_are_alike(self, name: str) -> None:
        balancer = Balancer(Random(1))
        balancer.update(self.snapshot(name, A, B, weights=(0, 0)))
        assert {balancer.pick("c", 0.0), balancer.pick("c", 0.0, (A,)), balancer.pick("c", 0.0, (B,))} == {A, B}

    def test_clients_who_stick_to_one_leave_it_when_it_has_no_weight_any_more(self) -> None:
        balancer = Balancer(Random(1))
        balancer.update(Snapshot(NAME, Verdict.SERVE, (A, B), 60))
        first = balancer.pick("c", 0.0)
        balancer.update(Snapshot(NAME, Verdict.SERVE, (A, B), 60, weights=(int(first == B), int(first == A))))
        assert balancer.pick("c", 1.0) not in {first, None}

    def test_an_edited_weight_counts(self) -> None:
        balancer = a_balancer(A, B)
        balancer.update(self.snapshot("round-robin", A, B, weights=(3, 1)))
        assert Counter(balancer.pick("c", 0.0) for _ in range(8)) == {A: 6, B: 2}
        balancer.update(self.snapshot("round-robin", A, B))
        assert Counter(balancer.pick("c", 0.0) for _ in range(8)) == {A: 4, B: 4}

    def test_connections_are_those_that_it_is_told_of(self) -> None:
        balancer = Balancer(Random(1))
        balancer.update(self.snapshot("least-connections", A, B))
        balancer.watch({A: Busy(7, 9)})
        assert {balancer.pick("c", 0.0) for _ in range(7)} == {B}

    @pytest.mark.parametrize("name", BalancerName)
    @pytest.mark.parametrize("weights", [(), (3, 1, 2)], ids=str)
    def test_another_process_goes_on(self, name: str, weights: tuple[int, ...]) -> None:
        snapshot = self.snapshot(name, A, B, C, weights=weights)
        before, after = Balancer(Random(1)), Balancer(Random(2))
        before.update(snapshot)
        for _ in range(4):
            before.pick("10.1.0.1", 0.0)
        before.suspect(C, 0.0)
        after.restore(before.state())
        after.update(snapshot)
        assert after.state() == before.state()
        if name not in {BalancerName.RANDOM, BalancerName.LEAST_CONNECTIONS}:
            assert [after.pick(f"10.1.0.{n}", 1.0) for n in range(9)] == [
                before.pick(f"10.1.0.{n}", 1.0) for n in range(9)
            ]


class TestAffinity:
    def test_a_client_keeps_its_endpoint(self) -> None:
        balancer = a_balancer(A, B, C, affinity=10)
        first = balancer.pick("c", 0.0)
        assert {balancer.pick("c", now) for now in (1.0, 10.5, 20.0)} == {first}

    def test_it_may_be_switched_on_while_endpoints_stay(self) -> None:
        balancer = a_balancer(A, B, C)
        balancer.update(Snapshot(NAME, Verdict.SERVE, (A, B, C), 60))
        assert len({balancer.pick("c", 0.0) for _ in range(6)}) == 1

    def test_the_table_is_asked_for_by_the_listeners_name(self) -> None:
        asked_for: list[ListenerName] = []

        def table(listener: ListenerName) -> AffinityTable:
            asked_for.append(listener)
            return AffinityTable()

        balancer = Balancer(Random(1), table)
        for endpoints in ((A,), (A, B)):
            balancer.update(Snapshot(EXTERNAL, Verdict.SERVE, endpoints, 60))
        assert asked_for == [EXTERNAL]

    def test_clients_are_still_spread(self) -> None:
        balancer = a_balancer(A, B, C, affinity=10)
        assert {balancer.pick(client, 0.0) for client in "abc"} == {A, B, C}

    def test_it_ends_with_the_timeout(self) -> None:
        balancer = a_balancer(A, B, affinity=10)
        assert balancer.pick("c", 0.0) != balancer.pick("c", 10.0)

    @pytest.mark.parametrize(("timeout", "kept"), [(5, False), (20, True)])
    def test_an_edited_timeout_counts_from_the_last_connection(self, timeout: int, *, kept: bool) -> None:
        balancer = a_balancer(A, B, affinity=10)
        first = balancer.pick("c", 0.0)
        balancer.update(Snapshot(NAME, Verdict.SERVE, (A, B), timeout))
        assert (balancer.pick("c", 6.0 if not kept else 15.0) == first) == kept

    def test_it_survives_changes_that_keep_the_endpoint(self) -> None:
        balancer = a_balancer(A, B, affinity=10)
        first = balancer.pick("c", 0.0)
        assert first is not None
        balancer.update(Snapshot(NAME, Verdict.SERVE, (first, C), 10))
        assert balancer.pick("c", 1.0) == first

    def test_it_ends_with_the_endpoint(self) -> None:
        balancer = a_balancer(A, B, affinity=10)
        first = balancer.pick("c", 0.0)
        other = B if first == A else A
        balancer.update(Snapshot(NAME, Verdict.SERVE, (other,), 10))
        assert balancer.pick("c", 1.0) == other

    def test_a_failed_dial_moves_the_client(self) -> None:
        balancer = a_balancer(A, B, affinity=10)
        first = balancer.pick("c", 0.0)
        assert first is not None
        second = balancer.pick("c", 0.0, (first,))
        assert second != first
        assert balancer.pick("c", 1.0) == second

    def test_a_forgotten_client_starts_afresh(self) -> None:
        balancer = a_balancer(A, B, affinity=10)
        first = balancer.pick("c", 0.0)
        balancer.forget("c")
        assert balancer.pick("c", 0.0) != first

    def test_switching_it_off_spreads_again(self) -> None:
        balancer = a_balancer(A, B, affinity=10)
        balancer.pick("c", 0.0)
        balancer.update(Snapshot(NAME, Verdict.SERVE, (A, B)))
        assert {balancer.pick("c", 0.0), balancer.pick("c", 0.0)} == {A, B}


class TestSharedAffinity:
    """Two listeners of one service port: one has all endpoints, the other those of this node."""

    def balancers(self, inner: tuple[Endpoint, ...], outer: tuple[Endpoint, ...]) -> tuple[Balancer, Balancer]:
        table = AffinityTable()
        pair = Balancer(Random(1), lambda _: table), Balancer(Random(2), lambda _: table)
        self.update(pair, inner, outer)
        return pair

    def update(self, pair: tuple[Balancer, Balancer], inner: tuple[Endpoint, ...], outer: tuple[Endpoint, ...]) -> None:
        pair[0].update(Snapshot(NAME, Verdict.SERVE, inner, 10))
        pair[1].update(Snapshot(EXTERNAL, Verdict.SERVE, outer, 10))

    @pytest.mark.parametrize("seed", range(5))
    def test_a_client_of_one_keeps_its_endpoint_at_the_other(self, seed: int) -> None:
        inner, outer = self.balancers((A, B, C), (A, B, C))
        for _ in range(seed):
            inner.pick("another client", 0.0)
        assert outer.pick("c", 1.0) == inner.pick("c", 0.0) == outer.pick("c", 9.0)

    def test_an_endpoint_that_is_not_in_the_list_does_not_count_and_gives_way(self) -> None:
        inner, outer = self.balancers((B, C), (A,))
        assert inner.pick("c", 0.0) in {B, C}
        assert outer.pick("c", 1.0) == A
        assert inner.pick("c", 2.0) in {B, C}

    def test_a_client_is_forgotten_when_no_list_has_its_endpoint(self) -> None:
        inner, _ = pair = self.balancers((A,), (A,))
        assert inner.pick("c", 0.0) == A
        self.update(pair, (B,), (B,))
        assert inner.pick("another client", 0.0) == B
        self.update(pair, (A, B, C), (A, B, C))
        turns = [inner.pick("another", 0.0, (A, B, C)) for _ in range(3)]
        while inner.pick("another", 0.0, (A, B, C)) != A:
            pass
        assert inner.pick("c", 1.0) == turns[(turns.index(A) + 1) % 3] != A

    def test_an_endpoint_that_moves_from_list_to_list_keeps_its_clients(self) -> None:
        inner, outer = pair = self.balancers((A,), ())
        assert inner.pick("c", 0.0) == A
        self.update(pair, (B,), (A, B, C))
        for _ in range(3):
            outer.pick("another client", 0.0, (A, B, C))
            assert outer.pick("c", 1.0) == A

    def test_a_listener_that_goes_leaves_the_clients_to_the_other(self) -> None:
        inner, outer = self.balancers((A, B, C), (A, B))
        first = inner.pick("c", 0.0)
        outer.leave_affinity()
        assert inner.pick("c", 1.0) == first

    def test_when_the_last_listener_leaves_all_clients_are_forgotten(self) -> None:
        table = AffinityTable()
        pair = Balancer(Random(1), lambda _: table), Balancer(Random(2), lambda _: table)
        self.update(pair, (A, B), (A, B))
        pair[0].pick("c", 0.0)
        pair[0].update(Snapshot(NAME, Verdict.SERVE, (A, B)))
        assert len(table) == 1
        pair[1].update(Snapshot(EXTERNAL, Verdict.SERVE, (A, B)))
        assert len(table) == 0
