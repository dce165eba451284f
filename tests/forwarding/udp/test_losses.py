"""A flood of lost datagrams costs few decisions."""

from hypothesis import given
from hypothesis import strategies as st

from userproxy.forwarding.udp.losses import MOST, SECONDS, Losses


@given(st.lists(st.tuples(st.integers(0, 40), st.floats(0, 0.3)), max_size=300))
def test_a_client_is_told_of_once_a_second_and_few_clients_are(asked: list[tuple[int, float]]) -> None:
    losses, now = Losses(), 0.0
    told: list[tuple[int, float]] = []
    for client, later in asked:
        now += later
        full = losses.is_full(now)
        taken = losses.take(b"%d" % client, now)
        assert not (full and taken)
        if taken:
            told.append((client, now))
    windows: list[list[tuple[int, float]]] = []
    for each in told:
        if not windows or each[1] - windows[-1][0][1] >= SECONDS:
            windows.append([])
        windows[-1].append(each)
    for window in windows:
        clients = [client for client, _ in window]
        assert len(clients) == len(set(clients)) <= MOST
    if asked:
        assert told[0] == (asked[0][0], asked[0][1])


def test_who_is_new_is_told_of_while_there_is_room() -> None:
    losses = Losses()
    assert [losses.take(b"%d" % number, 5.0) for number in range(MOST + 1)] == [True] * MOST + [False]
    assert losses.is_full(5.5)
    assert not losses.is_full(6.0)
    assert losses.take(b"0", 6.0)
