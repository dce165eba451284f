"""The flow table against a plain model, and who makes room when there are too many flows."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userproxy.forwarding.udp.flows import Flow, FlowQuota, FlowTable
from userproxy.forwarding.udp.idle import IdleLimits, idle_limits

LIMITS = IdleLimits(brief=16.0, stream=64.0)
GRAIN = LIMITS.grain

Table = FlowTable[Flow]


def filled(count: int, now: float = 0.0) -> Table:
    table = Table(LIMITS)
    for number in range(count):
        table.add(Flow(b"%d" % number), now)
    return table


def clients(table: Table, now: float) -> list[bytes]:
    """The clients whose flows have expired at `now`, in order."""
    found = []
    for flow in table.expired(now):
        found.append(flow.client)
        table.discard(flow)
    return found


def test_one_configured_timeout_holds_for_every_flow() -> None:
    assert idle_limits(0.25) == IdleLimits(0.25, 0.25)
    assert idle_limits(None) == IdleLimits(30.0, 120.0)


@pytest.mark.parametrize(("seconds", "grain"), [(0.25, 1 / 64), (16.0, 1.0), (3600.0, 1.0)])
def test_the_last_datagram_is_known_to_a_sixteenth_of_the_limit_and_to_the_second(seconds: float, grain: float) -> None:
    assert idle_limits(seconds).grain == grain


def test_a_flow_never_expires_before_its_limit() -> None:
    table = filled(1)
    assert clients(table, LIMITS.brief) == []
    assert clients(table, LIMITS.brief + GRAIN) == [b"0"]
    assert len(table) == 0


def test_a_stream_expires_later_than_a_brief_flow() -> None:
    table = filled(2)
    table.promote(table.by_client[b"0"], 0.0)
    assert clients(table, LIMITS.brief + GRAIN) == [b"1"]
    assert clients(table, LIMITS.stream) == []
    assert clients(table, LIMITS.stream + GRAIN) == [b"0"]


def test_what_would_expire_first_makes_room() -> None:
    table = filled(2)
    stream, brief = table.by_client[b"0"], table.by_client[b"1"]
    table.promote(stream, 0.0)
    assert table.oldest is brief
    table.touch(brief, 60.0)
    assert table.oldest is stream


def test_other_limits_count_from_now_on() -> None:
    table = filled(1)
    table.limit(IdleLimits(1.0, 1.0), 15.0)
    assert clients(table, 16.0) == []
    assert clients(table, 16.0 + table.limits.grain) == [b"0"]


def test_under_shorter_limits_the_last_datagram_is_known_more_exactly_at_once() -> None:
    table = filled(1)
    table.touch(table.by_client[b"0"], 15.0)
    table.limit(IdleLimits(1.0, 1.0), 15.0)
    assert table.by_client[b"0"].due == 15.0 + table.limits.grain


def test_other_limits_do_not_put_off_what_the_next_datagram_is_to_bring_up() -> None:
    """Its endpoint is gone: with the next datagram it has to move."""
    table = filled(1)
    table.reconsider()
    table.limit(IdleLimits(1.0, 1.0), 15.0)
    assert table.by_client[b"0"].due <= 15.0


def test_a_flow_is_discarded_once() -> None:
    table = filled(1)
    flow = table.by_client[b"0"]
    assert table.discard(flow)
    assert not table.discard(flow)
    table.add(Flow(b"0"), 0.0)
    assert not table.discard(flow), "another flow of the same client is none of its"


def test_recent_flows_are_found_from_the_newest_end() -> None:
    table = filled(3)
    table.touch(table.by_client[b"1"], 10.0)
    assert [flow.client for flow in table.since(9.0)] == [b"1"]


def test_recent_streams_are_found_beside_brief_flows_that_are_older() -> None:
    table = filled(2)
    table.promote(table.by_client[b"0"], 10.0)
    assert [flow.client for flow in table.since(9.0)] == [b"0"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["datagram", "promote", "end"]), st.integers(0, 5), st.floats(0.0, 40.0, allow_nan=False)
        ),
        max_size=60,
    )
)
def test_the_table_expires_what_a_plain_model_expires(steps: list[tuple[str, int, float]]) -> None:
    table = Table(LIMITS)
    model: dict[bytes, tuple[float, bool]] = {}
    now = 0.0
    for step, number, wait in steps:
        now += wait
        limits = {False: LIMITS.brief, True: LIMITS.stream}
        expired = {client for client, (seen, stream) in model.items() if seen + limits[stream] + GRAIN <= now}
        assert set(clients(table, now)) == expired
        for client in expired:
            del model[client]
        client = b"%d" % number
        flow = table.by_client.get(client)
        assert (flow is not None) == (client in model)
        if step == "end":
            if flow is not None:
                table.discard(flow)
                del model[client]
        elif flow is None:
            table.add(Flow(client), now)
            model[client] = (now, False)
        elif step == "promote":
            table.promote(flow, now)
            model[client] = (now, True)
        elif now >= flow.due:
            table.touch(flow, now)
            model[client] = (now, flow.stream)
        deadlines = [seen + limits[stream] + GRAIN for seen, stream in model.values()]
        assert table.next_deadline == (min(deadlines) if deadlines else None)
        assert len(list(table)) == len(table) == len(model)


def put(quota: FlowQuota[Flow], table: Table, count: int) -> None:
    for _ in range(count):
        table.add(Flow(b"%d" % len(table)), 0.0)
        quota.add(table)


def test_a_listener_at_its_own_limit_makes_room_itself() -> None:
    quota = FlowQuota[Flow](100, 10)
    table, other = Table(LIMITS), Table(LIMITS)
    put(quota, other, 20)
    put(quota, table, 9)
    assert quota.full(table) is None
    put(quota, table, 1)
    assert quota.full(table) is table


def test_the_listener_with_most_flows_makes_room_for_one_below_its_share() -> None:
    quota = FlowQuota[Flow](12, 100)
    flooded, modest, new = Table(LIMITS), Table(LIMITS), Table(LIMITS)
    put(quota, modest, 2)
    put(quota, flooded, 10)
    assert quota.full(flooded) is flooded
    assert quota.full(modest) is flooded
    assert quota.full(new) is flooded


@pytest.mark.parametrize(
    ("counts", "itself"), [((7, 5), False), ((6, 6), True), ((6, 5), True)], ids=["below its share", "at it", "odd"]
)
def test_who_has_an_equal_share_makes_room_itself(counts: tuple[int, int], *, itself: bool) -> None:
    quota = FlowQuota[Flow](sum(counts), 100)
    other, asking, gone = Table(LIMITS), Table(LIMITS), Table(LIMITS)
    put(quota, gone, 1)
    put(quota, other, counts[0])
    put(quota, asking, counts[1])
    for flow in list(gone):
        gone.discard(flow)
        quota.remove(gone)
    assert quota.full(asking) is (asking if itself else other), "a listener without flows has no share"


def test_the_only_listener_makes_room_for_a_new_one() -> None:
    quota = FlowQuota[Flow](3, 100)
    table, new = Table(LIMITS), Table(LIMITS)
    put(quota, table, 3)
    assert quota.full(new) is table


def test_the_giver_is_right_after_flows_have_gone() -> None:
    quota = FlowQuota[Flow](12, 100)
    first, second, new = Table(LIMITS), Table(LIMITS), Table(LIMITS)
    put(quota, first, 7)
    put(quota, second, 5)
    for flow in list(first)[:5]:
        first.discard(flow)
        quota.remove(first)
    assert quota.giver(new) is second
    assert quota.full(new) is None
    for table in (first, second):
        for flow in list(table):
            table.discard(flow)
            quota.remove(table)
    assert quota.total == 0
    assert quota.giver(new) is None


@given(st.lists(st.integers(0, 4), max_size=300))
def test_no_listener_is_pushed_below_its_equal_share(requests: list[int]) -> None:
    limit = 20
    quota = FlowQuota[Flow](limit, limit)
    tables = [Table(LIMITS) for _ in range(5)]
    for number, which in enumerate(requests):
        table = tables[which]
        giver = quota.full(table)
        if giver is not None:
            before = len(giver)
            oldest = giver.oldest
            assert oldest is not None
            giver.discard(oldest)
            quota.remove(giver)
            assert giver is table or before > limit // 5
        table.add(Flow(b"%d" % number), float(number))
        quota.add(table)
        assert quota.total == sum(map(len, tables)) <= limit


def test_a_flow_that_nobody_discards_expires_once() -> None:
    table = filled(3)
    expired = [flow.client for flow in itertools.islice(table.expired(1000.0), 9)]
    assert expired == [b"0", b"1", b"2"]
