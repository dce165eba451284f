"""What several processes have counted, added up."""

from tests.forwarding.observation.seen import Seen
from userproxy.forwarding.observation.counters import (
    NOTHING_COUNTED,
    EndpointCounters,
    EndpointTable,
    ListenerCounters,
    SharedEndpointCounters,
    total,
)
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


def test_others_see_what_is_counted_while_it_is_shared_and_nothing_before_or_after() -> None:
    table, seen = EndpointTable(), {ONE: Seen()}
    table[ONE].total += 7
    table.share(seen)
    table[ONE].connected(0.1)
    table[ONE].bytes_down += 20
    table[OTHER].connected(0.1)
    assert (seen[ONE].total, seen[ONE].bytes_down) == (1, 20)
    assert (table[ONE].total, table[ONE].active, table[ONE].bytes_down, table[OTHER].total) == (8, 1, 20, 1)
    table.share({OTHER: Seen()})
    table[ONE].total += 1
    assert (type(table[ONE]), type(table[OTHER]), seen[ONE].total) == (EndpointCounters, SharedEndpointCounters, 1)
    table.share(None)
    assert {type(each) for each in table.values()} == {EndpointCounters}
    assert table[ONE].state().total == 9


def test_one_that_is_counted_for_the_first_time_is_shared_as_well() -> None:
    table, seen = EndpointTable(), {ONE: Seen()}
    table.share(seen)
    table[ONE].total += 1
    assert seen[ONE].total == 1
