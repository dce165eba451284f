"""What several processes have counted, added up."""

from userproxy.forwarding.observation.counters import NOTHING_COUNTED, ListenerCounters, total
from userproxy.model import Endpoint
from userproxy.model.reports import DialFailure

ONE, OTHER = Endpoint("10.1.0.1", 80), Endpoint("10.1.0.2", 80)


def counters(endpoint: Endpoint, clients: int) -> ListenerCounters:
    made = ListenerCounters()
    made.accepted = clients
    made.seconds = clients / 2
    for _ in range(clients):
        made.endpoints[endpoint].connected(0.001)
    made.endpoints[endpoint].bytes_up = 10 * clients
    made.failed(endpoint, DialFailure.REFUSED)
    return made


def test_a_total_has_the_sums_of_everything() -> None:
    found = ListenerCounters()
    found.restore(total([counters(ONE, 2).state(), counters(ONE, 3).state(), counters(OTHER, 4).state()]))
    assert (found.accepted, found.seconds) == (9, 4.5)
    assert found.retries == {DialFailure.REFUSED: 3}
    assert [found.endpoints[each].total for each in (ONE, OTHER)] == [5, 4]
    assert found.endpoints[ONE].bytes_up == 50
    assert found.endpoints[ONE].failed == 2
    assert found.endpoints.dial_times.count == 9


def test_nothing_is_added_by_what_has_counted_nothing() -> None:
    state = counters(ONE, 2).state()
    assert total([NOTHING_COUNTED, state]) == total([state, NOTHING_COUNTED]) == state
    assert total([state]) is state
