"""Counts that several listeners see."""

from userproxy.forwarding.ejection.several import of_all
from userproxy.model import Endpoint

ONE, OTHER, UNKNOWN = (Endpoint("127.0.0.1", port) for port in (1, 2, 3))


class Counted:
    def __init__(self) -> None:
        self.total = 0
        self.bytes_down = 0

    def count(self, total: int = 0, bytes_down: int = 0) -> None:
        self.total += total
        self.bytes_down += bytes_down


def test_all_see_what_the_endpoint_of_each_does() -> None:
    first, second = {ONE: Counted(), OTHER: Counted()}, {ONE: Counted()}
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
    one = {ONE: Counted()}
    assert of_all([one]) is one
    assert of_all([]) is None
