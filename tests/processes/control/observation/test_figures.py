"""Figures of several processes are added up, and those of a process that has ended stay."""

from msgspec import structs

from userproxy.model import Endpoint, ListenerName, Protocol, ServicePortName, Verdict
from userproxy.model.reports import (
    Choice,
    DatagramFigures,
    DialFailure,
    DialTimes,
    EndpointFigures,
    ListenerFigures,
    ProcessFigures,
)
from userproxy.processes.control.observation.figures import added, bequest, merged, one_of, with_past

NAME = ListenerName(ServicePortName("default", "web", "http", Protocol.TCP))
ONE, TWO, GONE = (Endpoint("10.0.0.1", port) for port in (1, 2, 3))


def figures(total: int, active: int, *endpoints: EndpointFigures, **more: object) -> ListenerFigures:
    dial = DialTimes((0.1, 1.0), (total, 0, 0), total * 0.05)
    return ListenerFigures(
        NAME,
        Verdict.SERVE,
        4000,
        active,
        total,
        dial=dial,
        endpoints=endpoints,
        number=7,
        **more,  # type: ignore[arg-type]
    )


def test_figures_of_one_listener_add_up() -> None:
    one = figures(3, 1, EndpointFigures(ONE, total=3, active=1), retries={DialFailure.REFUSED: 1}, bytes_up=10)
    two = figures(4, 2, EndpointFigures(ONE, total=1), EndpointFigures(TWO, total=3, active=2), bytes_up=5)
    both = merged([one, two])
    assert (both.total, both.active, both.bytes_up, both.dial.count) == (7, 3, 15, 7)
    assert both.retries == {DialFailure.REFUSED: 1}
    assert [(each.endpoint, each.total, each.active) for each in both.endpoints] == [(ONE, 4, 1), (TWO, 3, 2)]
    assert (both.number, both.local_port) == (7, 4000)


def test_what_a_process_has_done_that_has_ended_stays_and_what_it_was_doing_does_not() -> None:
    before = merged([figures(3, 1, EndpointFigures(ONE, total=3, active=1)), figures(2, 1)])
    left = bequest(figures(3, 1, EndpointFigures(ONE, total=3, active=1), EndpointFigures(GONE, total=1)), None)
    after = merged([figures(2, 1, EndpointFigures(ONE, total=2, active=1))], left)
    assert after.total == before.total
    assert after.active == 1
    assert [(each.endpoint, each.total, each.active, each.usable) for each in after.endpoints] == [(ONE, 5, 1, True)]
    again = bequest(figures(2, 1), left)
    assert merged([figures(0, 0)], again).total == 5


def test_clients_in_the_kernel_s_queue_are_all_processes_own_and_counted_once() -> None:
    one, two = (structs.replace(figures(1, 1), waiting=waiting, queued=queued) for waiting, queued in ((2, 5), (1, 4)))
    both = merged([one, two])
    assert (both.waiting, both.queued) == (3, 5)
    left = bequest(one, None)
    assert (left.waiting, left.queued) == (0, 0)


def test_datagrams_add_up() -> None:
    up = [figures(1, 1, datagrams=DatagramFigures(datagrams_up=n, dropped=1)) for n in (1, 2)]
    assert merged(up).datagrams == DatagramFigures(datagrams_up=3, dropped=2)


def test_counters_of_a_place_go_on_with_its_next_process() -> None:
    past = ProcessFigures(1, 5, 10, evicted={Protocol.TCP: 2})
    now = with_past(ProcessFigures(2, 6, 10, evicted={Protocol.TCP: 1, Protocol.UDP: 4}), past)
    assert (now.pid, now.descriptors, now.evicted) == (2, 6, {Protocol.TCP: 3, Protocol.UDP: 4})
    assert added([]) == {}


def test_what_several_processes_would_choose_for_a_client_is_one_answer() -> None:
    one, two, nobody = (
        Choice(ONE, "it is its turn"),
        Choice(TWO, "it is its turn"),
        Choice(None, "there is no endpoint"),
    )
    assert one_of([one, one]) == one
    assert one_of([nobody, one]) == one
    assert one_of([nobody, nobody]) == nobody
    both = one_of([one, two, two])
    assert (both.endpoint, both.alternatives) == (ONE, (TWO,))
    assert both.reason == "it is its turn at one of 3 data processes, which choose apart"
