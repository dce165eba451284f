"""What is remembered of answers to clients' addresses."""

import pytest
from structlog.testing import capture_logs

from userproxy.forwarding import return_pairs
from userproxy.forwarding.client_addresses import ClientAddresses
from userproxy.forwarding.return_pairs import ReturnPairs, first_lost
from userproxy.model import DirectNetwork, Endpoint, IPFamily, Protocol, ReturnPath

ENDPOINT = Endpoint("10.244.2.5", 80)
TCP = (Protocol.TCP, IPFamily.IPV4)


def some_pairs() -> ReturnPairs:
    return ReturnPairs(*TCP)


def test_a_pair_without_answers_is_looked_at_ever_more_seldom() -> None:
    pair = some_pairs().of("cni0", "there")
    now, looks = 100.0, []
    with capture_logs() as logs:
        pair.lose(now, "10.244.1.5", ENDPOINT, "default/web")
        for _ in range(12):
            looks.append(pair.look_at - now)
            assert not pair.is_due(pair.look_at - 0.1)
            assert pair.is_due(pair.look_at)
            now = pair.look_at
            pair.lose(now, "10.244.1.6", ENDPOINT, "default/web")
        assert (pair.lost_since, pair.client) == (100.0, "10.244.1.5"), "that is when it was found out"
        assert len(logs) == 1
        pair.answer()
    assert looks[:4] == [10.0, 20.0, 40.0, 80.0]
    assert looks[-1] == max(looks) == 3600.0
    assert [line["log_level"] for line in logs] == ["warning", "info"]
    assert (pair.answered, pair.lost_since) == (True, None)


def test_one_at_a_time_looks() -> None:
    pair = some_pairs().of("cni0", "there")
    with capture_logs():
        pair.lose(0.0, "10.244.1.5", ENDPOINT, "default/web")
    pair.is_probed = True
    assert not pair.is_due(1e9)


def test_those_who_wait_are_called_once_whatever_is_found_out() -> None:
    pair, called = some_pairs().of("cni0", "there"), []
    for number in range(3):
        pair.waiting.append(lambda number=number: called.append(number))  # type: ignore[misc]
    pair.is_probed = True
    pair.end()
    pair.answer()
    assert called == [0, 1, 2]
    assert not pair.is_probed


def test_who_finds_out_nothing_lets_others_go_first() -> None:
    pair = some_pairs().of("cni0", "there")
    pair.is_probed = True
    assert not pair.is_open_to("10.244.1.5", 5.0)
    pair.give_up("10.244.1.5", 5.0)
    assert pair.is_open_to("10.244.1.5", 5.0), "nobody waits"
    pair.waiting.append(lambda: None)
    pair.give_up("10.244.1.5", 5.0)
    assert [pair.is_open_to(client, now) for client, now in (("10.244.1.5", 5.9), ("10.244.1.6", 5.9))] == [False, True]
    assert pair.is_open_to("10.244.1.5", 6.0)


def test_pairs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(return_pairs, "MOST_PAIRS", 3)
    pairs = some_pairs()
    first = pairs.of("cni0", "a")
    assert pairs.of("cni0", "a") is first
    for node in "bcdef":
        pairs.of("cni0", node)
    assert [pair.node for pair in pairs] == ["d", "e", "f"]
    for namespace in "xyz":
        pairs.of("cni0", "f", namespace)
    assert len(pairs) == len(list(pairs)) == 3


@pytest.mark.parametrize(
    ("networks", "problem", "left"),
    [
        ({"cali1": "10.0.0.1", "cali2": "10.0.0.2", "cali3": "10.0.0.3"}, "", {"cali1", "cali2", ""}),
        ({"cali1": "10.0.0.9", "cali2": "10.0.0.2"}, "", {"cali2", ""}),
        ({"cali2": "10.0.0.2"}, "", {"cali2", ""}),
        ({"cali1": "10.0.0.1", "cali2": "10.0.0.2"}, "the socket module is missing", set()),
    ],
)
def test_what_was_learned_goes_with_the_routes_that_it_was_learned_of(
    networks: dict[str, str], problem: str, left: set[str]
) -> None:
    def path(of: dict[str, str], problem: str = "") -> ReturnPath:
        found = tuple(DirectNetwork(network, interface, of_pods=True) for interface, network in of.items())
        return ReturnPath(IPFamily.IPV4, problem, found)

    addresses = ClientAddresses("here")
    addresses.follow(path({"cali1": "10.0.0.1", "cali2": "10.0.0.2"}))
    for pairs in addresses.pairs.values():
        for interface in ("cali1", "cali2", ""):
            pairs.of(interface, "there")
    addresses.follow(path(networks, problem))
    assert {pair.interface for pair in addresses.pairs[TCP]} == left
    assert len(addresses.pairs[Protocol.TCP, IPFamily.IPV6]) == 3, "they have routes of their own"


def test_what_a_tenant_s_endpoints_do_is_no_news_of_others_for_long() -> None:
    pairs = some_pairs()
    evil, good = pairs.of("cni0", "there", "evil"), pairs.within("good")
    now = 100.0
    with capture_logs():
        for _ in range(8):
            evil.lose(now, "10.244.1.5", ENDPOINT, "evil/web")
            now = evil.look_at
        pair = good.of("cni0", "there")
        assert pair.lost_since == 100.0, "it does not wait for what may never come"
        assert pair.is_due(100.0), "but looks itself at once, beside its first connection"
        pair.answer()
        evil.lose(now, "10.244.1.5", ENDPOINT, "evil/web")
    assert good.of("cni0", "there") is pair is good.known("cni0", "there")
    assert pair.answered
    assert not evil.answered
    assert pairs.of("cni0", "there", "third").lost_since is None, "somebody is answered there"
    assert [first_lost(way) for way in pairs.by_way()] == [None]


def test_nobody_trusts_in_answers_that_another_tenant_has_had() -> None:
    pairs = some_pairs()
    pairs.of("", "there", "evil").answer()
    assert not pairs.of("", "there", "good").answered


def test_datagrams_are_tried_by_each_tenant() -> None:
    pairs = ReturnPairs(Protocol.UDP, IPFamily.IPV4)
    with capture_logs():
        pairs.of("cni0", "there", "evil").lose(0.0, "10.244.1.5", ENDPOINT, "evil/dns")
    assert pairs.of("cni0", "there", "good").lost_since is None, "a look would cost its client the wait"


def test_a_way_that_is_lost_is_told_once() -> None:
    pairs = some_pairs()
    with capture_logs():
        for moment, namespace in ((7.0, "a"), (5.0, "b"), (6.0, "c")):
            pair = pairs.of("cni0", "there", namespace)
            pair.lost_since = None
            pair.lose(moment, "10.244.1.5", ENDPOINT, f"{namespace}/web")
        pairs.of("cni0", "elsewhere", "a")
    lost = [first_lost(way) for way in pairs.by_way()]
    assert [None if pair is None else (pair.node, pair.lost_since) for pair in lost] == [("there", 5.0), None]


def test_a_client_whom_a_filter_refuses_does_not_keep_others_from_looking() -> None:
    pair, now = some_pairs().of("cni0", "there"), 100.0
    with capture_logs():
        for _ in range(6):
            pair.lose(now, "10.244.1.66", ENDPOINT, "default/web")
            assert not pair.is_due(now, "10.244.1.66")
            assert pair.is_due(now, "10.244.1.5"), "another client has not tried yet"
            now = pair.look_at
        pauses = pair.look_at - 100.0
        pair.lose(now, "10.244.1.66", ENDPOINT, "default/web")
        due = pair.look_at
        for number in range(100):
            if pair.is_due(now, f"10.244.2.{number}"):
                pair.lose(now, f"10.244.2.{number}", ENDPOINT, "default/web")
    assert pauses == 10.0 + 20.0 + 40.0 + 80.0 + 160.0 + 320.0
    assert pair.look_at == due, "looks between put off none"
    assert not pair.is_due(now, "10.244.3.1"), "where nobody is answered there are not many"
    assert pair.is_due(due, "10.244.3.1")


def test_another_process_knows_what_this_one_has_learned() -> None:
    ours, its = some_pairs(), some_pairs()
    with capture_logs() as logs:
        ours.of("cni0", "here", "shop").answer()
        ours.of("cni0", "there", "shop").lose(100.0, "10.244.1.5", ENDPOINT, "shop/web")
        ours.of("eth0", "there", "shop")  # nothing is known of it
        logs.clear()
        for state in ours.states():
            its.restore(state)
        assert logs == []
    assert its.of("cni0", "here", "shop").answered
    lost = its.of("cni0", "there", "shop")
    assert (lost.lost_since, lost.client, lost.endpoint, lost.look_at) == (100.0, "10.244.1.5", ENDPOINT, 110.0)
    assert its.known("eth0", "there", "shop") is None
    assert its.known("cni0", "here") is None, "another namespace finds out by itself"
    with capture_logs():
        lost.lose(110.0, "10.244.1.6", ENDPOINT, "shop/web")
    assert lost.look_at == 130.0, "the next pause is twice as long"


def test_an_answer_that_one_process_has_seen_counts_more_than_that_another_has_seen_none() -> None:
    answered, lost = some_pairs(), some_pairs()
    with capture_logs():
        answered.of("cni0", "there", "shop").answer()
        lost.of("cni0", "there", "shop").lose(100.0, "10.244.1.5", ENDPOINT, "shop/web")
    for order in ((answered, lost), (lost, answered)):
        its = some_pairs()
        for pairs in order:
            for state in pairs.states():
                its.restore(state)
        pair = its.of("cni0", "there", "shop")
        assert (pair.answered, pair.lost_since) == (True, None)
