"""Counters become figures, number by number."""

from msgspec import structs

from tests.forwarding.conftest import NAME
from userproxy.forwarding.observation.counters import NOTHING_COUNTED, EndpointCounters, ListenerCounters
from userproxy.forwarding.observation.figures import counted, endpoint_figures, figures_of
from userproxy.forwarding.udp.statistics import UdpStatistics
from userproxy.model import Endpoint, Verdict
from userproxy.model.reports import DatagramFigures, DialFailure, EndpointFigures

ONE = Endpoint("10.0.0.1", 80)


def test_a_listener() -> None:
    counters = ListenerCounters()
    counters.accepted, counters.ended, counters.unserved, counters.bytes_up = 5, 3, 2, 100
    counters.failed(ONE, DialFailure.REFUSED)
    figures = figures_of(NAME, counters, Verdict.SERVE, [EndpointFigures(ONE)], 4000, 7)
    assert (figures.listener, figures.verdict, figures.local_port) == (NAME, Verdict.SERVE, 4000)
    assert (figures.total, figures.ended, figures.failed, figures.bytes_up) == (5, 3, 2, 100)
    assert figures.retries == {DialFailure.REFUSED: 1}
    assert (figures.affinity_entries, figures.number, figures.datagrams) == (7, counters.number, None)


def test_a_udp_listener_has_datagrams_and_counts_clients_without_a_flow_as_failed() -> None:
    counters = UdpStatistics()
    counters.datagrams_up, counters.unopened, counters.unserved = 4, 2, 9
    figures = figures_of(NAME, counters, Verdict.SERVE, [])
    assert figures.failed == 2
    assert figures.datagrams == DatagramFigures(datagrams_up=4, unserved=9)


def test_an_endpoint() -> None:
    counters = EndpointCounters()
    counters.connected(0.05)
    figures = endpoint_figures(ONE, counters, 1.5)
    assert (figures.total, figures.active, figures.dial.count, figures.passed_over_seconds) == (1, 1, 1, 1.5)
    assert endpoint_figures(ONE, None) == EndpointFigures(ONE)


def test_what_was_counted_is_found_in_the_figures() -> None:
    for kind in (ListenerCounters, UdpStatistics):
        counters = kind()
        for number, name in enumerate(counters.numbers, 1):
            setattr(counters, name, number)
        counters.failed(ONE, DialFailure.REFUSED)
        counters.dial_failures = 1
        counters.endpoints[ONE].connected(0.05)
        counters.endpoints[ONE].bytes_up = 7
        counters.endpoints.departed.add(counters.endpoints[ONE].dial)
        figures = figures_of(NAME, counters, Verdict.SERVE, [endpoint_figures(ONE, counters.endpoints[ONE])])
        assert figures.dial.count == 2
        assert structs.asdict(counted(figures)) == structs.asdict(counters.state())
    assert counted(figures_of(NAME, ListenerCounters(), Verdict.SERVE, [])).departed == NOTHING_COUNTED.departed
