from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.admin.pcapng.reader import RST, SYN, CaptureFile, read, streams
from userproxy.admin.pcapng import Recording
from userproxy.model import Endpoint, IPFamily, ListenerName, Protocol, ServicePortName
from userproxy.model.capture import CaptureEvent, Ended, Leg, Opened, Segment, SegmentKind
from userproxy.model.reports import Attempt, Outcome, SocketAddress

WEB = ListenerName(ServicePortName("default", "web", "http", Protocol.TCP))
DNS = ListenerName(ServicePortName("kube-system", "dns", "dns", Protocol.UDP))


def opened(connection: int = 1, *, ipv6: bool = False, name: ListenerName = WEB, **others: Any) -> Opened:
    net = "fd00::" if ipv6 else "10.0.0."
    fields: dict[str, Any] = {
        "client": SocketAddress(f"{net}1", 40_000 + connection),
        "portal": SocketAddress(f"{net}2", 80),
        "node": SocketAddress(f"{net}3", 50_000 + connection),
        "endpoint": Endpoint(f"{net}4", 8080),
        "accepted": 1_700_000_000.25,
        "dialed": 1_700_000_000.5,
        "connected": 1_700_000_000.75,
    }
    return Opened(connection, name, **{**fields, **others})


def recorded(*events: CaptureEvent) -> CaptureFile:
    recording = Recording()
    return read(recording.begin() + b"".join(map(recording.add, events)))


def data(leg: Leg, text: bytes, *, up: bool, connection: int = 1, size: int | None = None) -> Segment:
    return Segment(connection, 1_700_000_001.0, leg, up, SegmentKind.DATA, text, len(text) if size is None else size)


def ended(verdict: Outcome = Outcome.SERVED, reason: str = "", connection: int = 1) -> Ended:
    return Ended(connection, 1_700_000_002.0, verdict, reason, 1.75, 3, 5)


def test_a_connection_has_two_legs_with_handshakes_of_their_own() -> None:
    found = recorded(opened(), data(Leg.CLIENT, b"ask", up=True), data(Leg.BACKEND, b"ask", up=True), ended())

    assert found.interfaces == ["client", "backend"]
    first, answer, third = (each for each in found.packets[:3])
    assert (first.source, first.destination) == (("10.0.0.1", 40_001), ("10.0.0.2", 80))
    assert [each.flags for each in (first, answer, third)] == [2, 18, 16]
    assert [each.interface for each in found.packets] == [0, 0, 0, 1, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1]
    assert [each.nanoseconds % 10**9 for each in found.packets[2:5]] == [250_000_000, 500_000_000, 750_000_000]
    assert [each.outbound for each in found.packets[:6]] == [False, True, False, True, False, True]
    sent = streams(found.packets)
    assert sent[("10.0.0.3", 50_001), ("10.0.0.4", 8080)].data == b"ask"
    assert all(side.fin for side in sent.values())


def test_comments_say_what_was_decided_and_how_it_ended() -> None:
    tried = (Attempt(Endpoint("10.0.0.9", 8080), "Connection refused"),)

    found = recorded(opened(tried=tried), ended())

    way = "10.0.0.1:40001 -> 10.0.0.2:80 -> 10.0.0.3:50001 -> 10.0.0.4:8080"
    text = f"default/web:http: connection 1, {way}; tried before: 10.0.0.9:8080 (Connection refused)"
    text += "; accepted by it in 0.250000 s"
    assert "A dial that failed has no packets" in found.comment
    assert [each.comment for each in found.packets if each.comment] == [
        text,
        text,
        "served: 3 bytes up, 5 bytes down, 1.750000 s",
        "served: 3 bytes up, 5 bytes down, 1.750000 s",
    ]


def test_times_do_not_step_back_where_a_connection_was_dialled_before_others_said_something() -> None:
    late = opened(2, accepted=1_700_000_000.9, dialed=1_700_000_000.9, connected=1_700_000_001.5)

    found = recorded(opened(), data(Leg.CLIENT, b"ask", up=True), late, ended(connection=2), ended())

    times = [each.nanoseconds for each in found.packets]
    assert times == sorted(times)
    handshake = [each.nanoseconds % 10**9 for each in found.packets[7:13]]
    assert handshake == [0, 0, 0, 0, 500_000_000, 500_000_000]
    assert found.packets[7].comment.endswith("; accepted by it in 0.600000 s")
    streams(found.packets)


def test_a_reset_is_one_on_both_legs_and_by_whom_it_was() -> None:
    reset = Segment(1, 1_700_000_001.5, Leg.BACKEND, up=False, kind=SegmentKind.RST)

    found = recorded(opened(), data(Leg.CLIENT, b"ask", up=True), reset, ended(Outcome.RESET, "reset by the endpoint"))

    resets = [each for each in found.packets if each.flags & RST]
    assert [(each.interface, each.source[0]) for each in resets] == [(0, "10.0.0.2"), (1, "10.0.0.4")]
    assert resets[0].comment == "reset (reset by the endpoint): 3 bytes up, 5 bytes down, 1.750000 s"
    streams(found.packets)


def test_whom_no_endpoint_served_has_one_leg() -> None:
    found = recorded(opened(node=None, endpoint=None), ended(Outcome.REFUSED, "no endpoint has accepted"))

    assert {each.interface for each in found.packets} == {0}
    assert [each.flags for each in found.packets] == [2, 18, 16, 20]
    assert "refused (no endpoint has accepted)" in found.packets[-1].comment


def test_what_was_open_before_has_no_handshake() -> None:
    found = recorded(opened(whole=False), data(Leg.CLIENT, b"ask", up=True), data(Leg.BACKEND, b"ask", up=True))

    assert not any(each.flags & SYN for each in found.packets)
    assert [each.comment.endswith("; captured from the middle on") for each in found.packets] == [True, True]


def test_a_half_closed_connection_goes_on_the_other_way() -> None:
    fin = Segment(1, 1_700_000_001.0, Leg.CLIENT, up=True, kind=SegmentKind.FIN)

    found = recorded(opened(), fin, data(Leg.CLIENT, b"answer", up=False), ended())

    sent = streams(found.packets)
    assert sent[("10.0.0.2", 80), ("10.0.0.1", 40_001)].data == b"answer"
    fins = [(each.interface, each.source[0]) for each in found.packets if each.flags & 1]
    assert fins[:2] == [(0, "10.0.0.1"), (0, "10.0.0.2")]


def test_the_same_ports_again_begin_with_another_sequence_number() -> None:
    first = recorded(opened(1, client=SocketAddress("10.0.0.1", 4000)), ended())
    again = recorded(opened(2, client=SocketAddress("10.0.0.1", 4000)), ended(connection=2))

    assert first.packets[0].source == again.packets[0].source
    assert first.packets[0].sequence != again.packets[0].sequence


def test_what_is_not_captured_is_missing_from_packets_and_counted() -> None:
    found = recorded(
        opened(), data(Leg.CLIENT, b"begin", up=True, size=100_000), data(Leg.CLIENT, b"", up=True, size=7)
    )

    side = streams(found.packets)[("10.0.0.1", 40_001), ("10.0.0.2", 80)]
    assert side.data == b"begin"
    assert side.missing == 100_002


def test_a_zone_of_an_address_is_left_out() -> None:
    found = recorded(opened(ipv6=True, client=SocketAddress("fe80::1%eth0", 4000)))

    assert found.packets[0].source == ("fe80::1", 4000)


def test_events_of_unknown_connections_are_passed_over() -> None:
    assert recorded(data(Leg.CLIENT, b"ask", up=True), ended()).packets == []


def test_datagrams_stay_whole() -> None:
    found = recorded(
        opened(name=DNS),
        data(Leg.CLIENT, b"question", up=True),
        data(Leg.BACKEND, b"question", up=True),
        data(Leg.BACKEND, b"a" * 65_507, up=False),
        data(Leg.CLIENT, b"", up=False, size=4),
        ended(),
    )

    assert [each.protocol for each in found.packets] == [17] * 4
    assert [len(each.payload) for each in found.packets] == [8, 8, 65_507, 0]
    assert found.packets[2].source == ("10.0.0.4", 8080)
    assert found.packets[3].missing == 4
    assert found.packets[0].comment.startswith("kube-system/dns:dns: connection 1")


def test_a_file_that_is_cut_off_says_so() -> None:
    recording = Recording()

    found = read(recording.begin() + recording.cut_off(1_700_000_000.0, 12, "too slow"))

    assert found.statistics == [(0, 12, "too slow"), (1, 12, "too slow")]


SEGMENTS = st.tuples(
    st.sampled_from(Leg),
    st.booleans(),
    st.one_of(st.binary(max_size=40), st.binary(min_size=1).map(lambda b: b * 9000)),
)


@given(
    st.lists(st.tuples(st.integers(1, 3), SEGMENTS), max_size=25),
    st.booleans(),
    st.sampled_from([Outcome.SERVED, Outcome.RESET]),
    st.sampled_from(list(IPFamily)),
)
def test_streams_are_what_has_passed(
    passed: list[tuple[int, tuple[Leg, bool, bytes]]], whole: bool, verdict: Outcome, family: IPFamily
) -> None:
    events: list[CaptureEvent] = [opened(i, ipv6=family is IPFamily.IPV6, whole=whole) for i in (1, 2, 3)]
    events += [data(leg, text, up=up, connection=i) for i, (leg, up, text) in passed]
    events += [ended(verdict, connection=i) for i in (1, 2, 3)]

    sent = streams(recorded(*events).packets)

    for i in (1, 2, 3):
        first = opened(i, ipv6=family is IPFamily.IPV6)
        assert first.node is not None
        assert first.endpoint is not None
        ends = {
            Leg.CLIENT: ((first.client.ip, first.client.port), (first.portal.ip, first.portal.port)),
            Leg.BACKEND: ((first.node.ip, first.node.port), (first.endpoint.ip, first.endpoint.port)),
        }
        for leg in Leg:
            near, far = ends[leg]
            for up, key in ((True, (near, far)), (False, (far, near))):
                expected = b"".join(text for j, (of, upward, text) in passed if (j, of, upward) == (i, leg, up))
                assert (sent[key].data if key in sent else b"") == expected
