"""Counters that something is written to are noted, once, and are as they were afterwards."""

from userproxy.forwarding.handover.noting import CounterChanges
from userproxy.forwarding.tcp.relays.accounts import TcpStatistics
from userproxy.forwarding.udp.statistics import UdpStatistics


def test_what_is_written_to_is_noted_until_it_is_taken() -> None:
    changes = CounterChanges()
    one, other, third = TcpStatistics(), UdpStatistics(), TcpStatistics()
    for each in (one, other):
        changes.look(each)
    other.unserved += 1
    third.accepted += 1
    assert list(changes.noted()) == [other]
    one.accepted += 1
    one.active += 1
    assert changes.take() == [other, one]
    assert (one.accepted, one.active, other.unserved) == (1, 1, 1)
    one.active -= 1
    assert changes.take() == [], "nobody looks at it any more"
    changes.look(one)
    one.ended += 1
    assert changes.take() == [one]


def test_counting_costs_nothing_more_once_a_change_is_noted_or_nobody_looks() -> None:
    changes = CounterChanges()
    changed, same, closed = TcpStatistics(), TcpStatistics(), UdpStatistics()
    for each in (changed, same, closed):
        changes.look(each)
    assert type(same) is not TcpStatistics
    changed.accepted += 1
    assert type(changed) is TcpStatistics
    changes.end((changed, same, closed))
    assert [type(each) for each in (changed, same, closed)] == [TcpStatistics, TcpStatistics, UdpStatistics]
    same.accepted += 1
    assert changes.take() == [changed]


def test_counters_that_are_looked_at_say_the_same_as_others() -> None:
    counters = UdpStatistics()
    counters.datagrams_up = 7
    before = counters.mark, counters.state()
    CounterChanges().look(counters)
    assert (counters.mark, counters.state()) == before
    assert isinstance(counters, UdpStatistics)


def test_some_are_taken_for_changed_whether_they_are_looked_at_or_not() -> None:
    changes = CounterChanges()
    looked_at, other = TcpStatistics(), TcpStatistics()
    changes.look(looked_at)
    changes.note(looked_at)
    changes.note(other)
    assert [type(each) for each in (looked_at, other)] == [TcpStatistics, TcpStatistics]
    looked_at.accepted += 1
    assert changes.take() == [looked_at, other]
