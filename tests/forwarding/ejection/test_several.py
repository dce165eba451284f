"""Counts that several listeners see."""

from tests.forwarding.observation.seen import Seen
from userproxy.forwarding.ejection.several import of_all
from userproxy.model import Endpoint

ONE, OTHER, UNKNOWN = (Endpoint("127.0.0.1", port) for port in (1, 2, 3))


def test_all_see_what_the_endpoint_of_each_does() -> None:
    first, second = {ONE: Seen(), OTHER: Seen()}, {ONE: Seen()}
    shared = of_all([first, second])
    assert shared is not None
    for endpoint in (ONE, OTHER):
        count = shared.get(endpoint)
        assert count is not None
        count.count(total=1)
        count.count(bytes_down=7)
    assert shared.get(UNKNOWN) is None
    assert {(each.total, each.bytes_down) for each in (*first.values(), *second.values())} == {(1, 7)}


def test_one_alone_is_asked_itself() -> None:
    one = {ONE: Seen()}
    assert of_all([one]) is one
    assert of_all([]) is None
