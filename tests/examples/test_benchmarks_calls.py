"""Calls of the data plane are counted, and nobody else's."""

from examples.benchmarks.calls import count_calls


def test_calls_grow_with_connections_and_requests() -> None:
    one, more, asked = count_calls(2, 2), count_calls(8, 2), count_calls(2, 2, requests=20)
    made = "relay.Relay.begin"
    assert [calls.python[made] for calls in (one, more, asked)] == [4, 16, 4]
    assert more.python.total() > 2 * one.python.total()
    assert asked.c["socket.recv_into"] >= one.c["socket.recv_into"] + 4 * 19
    strangers = {name for calls in (one, more, asked) for name in calls.python if name.startswith("calls.")}
    assert strangers <= {"calls._count_calls", "calls._count_calls.<locals>.<genexpr>"}, "clients and backend"
