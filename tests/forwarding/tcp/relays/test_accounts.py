"""What a listener's books say of clients who were let in, and of those who were not."""

from userproxy.forwarding.observation.recorder import Recorder
from userproxy.forwarding.tcp.dialer import Dial
from userproxy.forwarding.tcp.relay import Relay
from userproxy.forwarding.tcp.relays.accounts import Accounts
from userproxy.model import Endpoint, ListenerName, Protocol, ServicePortName
from userproxy.model.reports import Outcome

NAME = ListenerName(ServicePortName("default", "web", "", Protocol.TCP))
CLIENT = "192.0.2.1", 40_000


def test_the_established_ones_among_some_ids_are_told_in_whatever_order_they_were_adopted() -> None:
    books = Accounts(Recorder(lambda: 1.0), NAME)
    for number in (7, 2, 9, 4):
        books.members[number] = Relay()
    books.members[5] = Dial()
    books.in_order()
    assert list(books.members) == [2, 4, 5, 7, 9]
    assert books.established(2, 7) == [books.members[7], books.members[4]]
    assert not books.established(9, 20)
    assert len(books) == 5


def test_a_client_for_whom_a_limit_has_no_room_is_counted_twice_and_decided_on_once() -> None:
    recorder = Recorder(lambda: 12.0)
    books = Accounts(recorder, NAME)
    books.limited(CLIENT, None, "there is no room")
    books.refused(CLIENT, ("10.96.0.1", 80), "it may not")
    assert (books.statistics.limited, books.statistics.refused, books.statistics.accepted) == (1, 2, 0)
    first, second = recorder.ring(NAME.service_port)
    assert (first[0], first[1], first[2], first[5], first[6]) == (
        12.0,
        NAME,
        CLIENT,
        Outcome.REFUSED,
        "there is no room",
    )
    assert (second[3], second[6]) == (("10.96.0.1", 80), "it may not")


def test_live_bytes_are_counted_once() -> None:
    books = Accounts(Recorder(lambda: 1.0), NAME)
    relay = Relay()
    relay._ways = None
    relay.count_up, relay.count_down, relay.settled_up, relay.settled_down = 30, 200, 10, 0
    relay.counters = books.statistics.endpoints[Endpoint("192.0.2.9", 80)]
    for _ in range(2):
        books.settle(relay)
        assert (books.statistics.bytes_up, books.statistics.bytes_down) == (20, 200)
        assert (relay.counters.bytes_up, relay.settled_up, relay.settled_down) == (20, 30, 200)
