"""Which cells of shared memory the endpoints of listeners that eject have."""

from tests.routing.balancers.pools import endpoints
from userproxy.model import Endpoint, ListenerName, Protocol, ServicePortName
from userproxy.processes.ejections.cell_numbers import CellNumbers

A, B, C = endpoints(3)
WEB, API = (ListenerName(ServicePortName("default", each, "http", Protocol.TCP)) for each in ("web", "api"))


class Begun(list[tuple[Endpoint, int]]):
    """The cells that were begun."""

    def begin(self, endpoint: Endpoint, number: int) -> None:
        self.append((endpoint, number))


def test_each_endpoint_keeps_its_own_as_long_as_its_listener_has_it() -> None:
    numbers, begun = CellNumbers(10), Begun()
    assert numbers.follow(WEB, (A, B), begun.begin) == (0, 1)
    assert numbers.follow(API, (A,), begun.begin) == (2,)
    assert numbers.follow(WEB, (B, C), begun.begin) == (1, 3)
    assert begun == [(A, 0), (B, 1), (A, 2), (C, 3)], "only what is new begins"
    assert dict(numbers.of(WEB)) == {B: 1, C: 3}
    assert list(numbers) == [WEB, API]
    assert not numbers.of(ListenerName(ServicePortName("default", "none", "http", Protocol.TCP)))


def test_who_asks_for_the_same_is_answered_the_same_without_a_look() -> None:
    numbers, begun, its = CellNumbers(10), Begun(), (A, B)
    first = numbers.follow(WEB, its, begun.begin)
    assert numbers.follow(WEB, its, begun.begin) is first
    assert numbers.follow(WEB, (A, B), begun.begin) == first


def test_what_is_freed_is_taken_last_and_where_there_is_no_room_there_is_none() -> None:
    numbers, begun = CellNumbers(3), Begun()
    numbers.follow(WEB, (A, B), begun.begin)
    numbers.follow(WEB, (B,), begun.begin)
    assert numbers.follow(API, (A, B, C), begun.begin) == (2, 0, -1)
    assert dict(numbers.of(API)) == {A: 2, B: 0}
    numbers.forget(WEB)
    assert numbers.follow(API, (A, B, C), begun.begin) == (2, 0, 1), "there is room now, when it is told anew"
    numbers.forget(API)
    numbers.forget(API)
    assert numbers.follow(WEB, (A, B, C), begun.begin) == (2, 0, 1)
