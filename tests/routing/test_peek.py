"""What peek says is what pick then does, and asking changes nothing."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

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
from userproxy.routing.balancer import Balancer

NAME = ListenerName(ServicePortName("default", "web", "http", Protocol.TCP))
EXTERNAL = ListenerName(NAME.service_port, traffic=TrafficClass.EXTERNAL)
ENDPOINTS = tuple(Endpoint(f"10.0.0.{n}", 80) for n in range(1, 5))
CLIENTS = ("192.0.2.1", "192.0.2.2", "2001:db8::1")

some = st.lists(st.sampled_from(ENDPOINTS), unique=True).map(tuple)
which = st.integers(0, 1)
weights = st.one_of(st.none(), st.lists(st.integers(0, 3), min_size=4, max_size=4))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("pick"), which, st.sampled_from(CLIENTS), some),
        st.tuples(
            st.just("update"), which, some, st.sampled_from((None, 2, 10)), st.sampled_from(BalancerName), weights
        ),
        st.tuples(st.just("suspect"), which, st.sampled_from(ENDPOINTS)),
        st.tuples(st.just("forget"), which, st.sampled_from(CLIENTS)),
        st.tuples(st.just("wait"), st.sampled_from((0.001, 1.0, 2.0, 4.999, 6.0))),
    ),
    max_size=40,
)


class Pair:
    """The two balancers of a service port, which share an affinity table, as they are before each pick."""

    def __init__(self) -> None:
        table = AffinityTable()
        self.balancers = tuple(Balancer(Random(1), lambda _: table) for _ in range(2))
        self.now = 0.0

    def step(self, step: tuple[object, ...], *, peeks: int) -> Endpoint | None:
        match step:
            case ("pick", int(which), str(client), tuple(tried)):
                balancer = self.balancers[which]
                peeked = [balancer.peek(client, self.now, tried) for _ in range(peeks)]
                picked = balancer.pick(client, self.now, tried)
                assert all(choice.endpoint == picked for choice in peeked)
                assert all(choice.reason for choice in peeked)
                return picked
            case ("update", int(which), tuple(endpoints), timeout, str(kind), given):
                of_each = () if given is None else tuple(given[: len(endpoints)])  # type: ignore[index]
                assert timeout is None or isinstance(timeout, int)
                name = (NAME, EXTERNAL)[which]
                self.balancers[which].update(
                    Snapshot(name, Verdict.SERVE, endpoints, timeout, balancer=kind, weights=of_each)
                )
            case ("suspect", int(which), Endpoint() as endpoint):
                self.balancers[which].suspect(endpoint, self.now)
            case ("forget", int(which), str(client)):
                self.balancers[which].forget(client)
            case ("wait", float(seconds)):
                self.now += seconds
        return None


@given(steps)
def test_peek_is_the_pick_that_follows_and_changes_nothing(history: list[tuple[object, ...]]) -> None:
    asked, left_alone = Pair(), Pair()
    for step in history:
        assert asked.step(step, peeks=2) == left_alone.step(step, peeks=0)


def test_a_client_that_sticks_to_an_endpoint_of_the_other_listener_gets_its_turn() -> None:
    pair = Pair()
    a, b, *_ = ENDPOINTS
    pair.step(("update", 0, (a,), 10, "round-robin", None), peeks=0)
    pair.step(("update", 1, (b,), 10, "round-robin", None), peeks=0)
    assert pair.step(("pick", 0, "c", ()), peeks=1) == a
    assert pair.step(("pick", 1, "c", ()), peeks=1) == b


def test_an_endpoint_is_passed_over_for_a_while() -> None:
    balancer = Balancer(Random(1))
    balancer.update(Snapshot(NAME, Verdict.SERVE, ENDPOINTS))
    assert balancer.passed_over(ENDPOINTS[0], 1.0) == 0.0
    balancer.suspect(ENDPOINTS[0], 1.0)
    assert [balancer.passed_over(ENDPOINTS[0], now) for now in (2.0, 6.0, 7.0)] == [4.0, 0.0, 0.0]
