"""What is remembered is bounded: of one service port, and of all together."""

from userproxy.forwarding.observation.recorder import LEAST_OF_ONE, MOST, MOST_OF_ONE, DecisionRing, Entry, Recorder
from userproxy.model import ListenerName, Protocol, ServicePortName
from userproxy.model.reports import Outcome, Source


def name(number: int) -> ListenerName:
    return ListenerName(ServicePortName("default", f"s{number}", "", Protocol.TCP))


def entry(listener: ListenerName, number: int) -> Entry:
    return (
        float(number),
        listener,
        ("192.0.2.1", 1),
        None,
        None,
        Outcome.SERVED,
        "",
        (),
        0.0,
        0,
        0,
        Source.NODE,
        number,
    )


def fill(recorder: Recorder, number: int) -> DecisionRing:
    ring = recorder.ring(name(number).service_port)
    for each in range(MOST_OF_ONE + 5):
        ring.add(entry(name(number), each))
    return ring


def test_a_ring_keeps_the_newest() -> None:
    ring = fill(Recorder(lambda: 0.0), 1)
    assert [each[-1] for each in ring] == list(range(5, MOST_OF_ONE + 5))


def test_the_more_service_ports_have_decisions_the_fewer_each_keeps() -> None:
    recorder = Recorder(lambda: 0.0)
    rings = [fill(recorder, number) for number in range(1000)]
    assert len(rings[0]) == MOST_OF_ONE
    assert len(rings[-1]) == MOST // 1000
    assert sum(map(len, rings)) < 4 * MOST
    assert all(len(ring) >= LEAST_OF_ONE for ring in rings)


def test_a_service_port_that_nobody_has_any_more_is_forgotten() -> None:
    recorder = Recorder(lambda: 0.0)
    kept, gone = fill(recorder, 1), fill(recorder, 2)
    assert recorder.ring(name(1).service_port) is kept
    del gone
    assert [service_port for service_port, _ in recorder.rings()] == [name(1).service_port]


def test_all_rings_may_be_gone_through_while_some_of_them_come_and_go() -> None:
    recorder = Recorder(lambda: 0.0)
    kept, going, empty = fill(recorder, 1), fill(recorder, 2), recorder.ring(name(3).service_port)
    found = recorder.all_rings()
    assert next(found) == (name(1).service_port, kept)
    del going
    fourth = fill(recorder, 4)
    assert list(found) == [(name(3).service_port, empty)]
    assert [ring for _, ring in recorder.all_rings()] == [kept, empty, fourth]
