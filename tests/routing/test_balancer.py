"""Round-robin, affinity and retries."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userproxy.model import Endpoint, Protocol, ServicePortName, Snapshot
from userproxy.routing.balancer import SUSPECT_SECONDS, Balancer

NAME = ServicePortName("default", "web", "http", Protocol.TCP)
A, B, C = (Endpoint(f"10.0.0.{n}", 80) for n in (1, 2, 3))


def a_balancer(*endpoints: Endpoint, affinity: int | None = None, seed: int = 1) -> Balancer:
    balancer = Balancer(Random(seed))
    balancer.update(Snapshot(NAME, endpoints, affinity))
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


def test_an_update_with_the_same_endpoints_keeps_the_turn() -> None:
    balancer = a_balancer(A, B, C)
    picked = [balancer.pick("c", 0.0)]
    balancer.update(Snapshot(NAME, (C, B, A)))
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
        assert balancer.pick("c", 1.0, (B,)) == A

    def test_other_endpoints_start_without_suspicion(self) -> None:
        balancer = a_balancer(A, B)
        balancer.suspect(A, 0.0)
        balancer.update(Snapshot(NAME, (A, C)))
        assert {balancer.pick("c", 1.0), balancer.pick("c", 1.0)} == {A, C}


class TestAffinity:
    def test_a_client_keeps_its_endpoint(self) -> None:
        balancer = a_balancer(A, B, C, affinity=10)
        first = balancer.pick("c", 0.0)
        assert {balancer.pick("c", now) for now in (1.0, 10.5, 20.0)} == {first}

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
        balancer.update(Snapshot(NAME, (A, B), timeout))
        assert (balancer.pick("c", 6.0 if not kept else 15.0) == first) == kept

    def test_it_survives_changes_that_keep_the_endpoint(self) -> None:
        balancer = a_balancer(A, B, affinity=10)
        first = balancer.pick("c", 0.0)
        assert first is not None
        balancer.update(Snapshot(NAME, (first, C), 10))
        assert balancer.pick("c", 1.0) == first

    def test_it_ends_with_the_endpoint(self) -> None:
        balancer = a_balancer(A, B, affinity=10)
        first = balancer.pick("c", 0.0)
        other = B if first == A else A
        balancer.update(Snapshot(NAME, (other,), 10))
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
        balancer.update(Snapshot(NAME, (A, B)))
        assert {balancer.pick("c", 0.0), balancer.pick("c", 0.0)} == {A, B}
