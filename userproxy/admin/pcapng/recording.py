"""What a capture tells, as a pcapng file in which each leg is a TCP stream or UDP conversation of its own.

userproxy sees bytes and not packets: these are the packets that could have carried them. Addresses, ports, order, times
and payload are right; how a stream is cut into segments, sequence numbers, acknowledgements and TTL are made up. A
handshake is known only when its endpoint has accepted: where the file has later packets by then, it has the time of the
last of these, and its comment says how long it took.
"""

from typing import Final

from userproxy import __version__
from userproxy.admin.pcapng import blocks
from userproxy.admin.pcapng.packets import ACK, FIN, PSH, RST, SYN, Path
from userproxy.model.capture import CaptureEvent, Ended, Leg, Opened, Segment, SegmentKind
from userproxy.model.cluster import Protocol
from userproxy.model.reports import Outcome, SocketAddress

_SEGMENT: Final = 32 * 1024
"""Payload of a TCP segment at most: an IP packet has less than 64 KiB."""

_UNACKNOWLEDGED: Final = 64 * 1024
"""After so many bytes the other side acknowledges them, as if it had nothing to say itself."""

_SYN_OPTIONS: Final = bytes((2, 4, 0xFF, 0xD7, 3, 3, 14, 1))
"""MSS of 65,495 and a window scale of 14: the window is then a gigabyte, and never full."""

_ABOUT: Final = (
    "Written by a proxy, which sees bytes and no packets. Addresses, ports, order, times, payload, FIN and RST are what"
    " happened; handshakes, sequence numbers, acknowledgements, segments and TTL are made up. A dial that failed has no"
    " packets: the comment of a connection's first packet says which endpoints were tried before, and why they failed."
)

_LEGS: Final = {Leg.CLIENT: "client -> portal", Leg.BACKEND: "node -> endpoint"}
_NUMBERS: Final = {leg: number for number, leg in enumerate(_LEGS)}
_SEQUENCE: Final = 0xFFFFFFFF


class Recording:
    """Turns events of a capture into the bytes of its file, one after the other."""

    def __init__(self) -> None:
        self._legs: dict[tuple[int, Leg], _TcpLeg | _UdpLeg] = {}
        self._times = _Times()

    def begin(self) -> bytes:
        """What the file begins with: two interfaces, one for each leg."""
        interfaces = [blocks.interface(leg, f"{text}, as userproxy saw it") for leg, text in _LEGS.items()]
        return blocks.section_header(f"userproxy {__version__}", _ABOUT) + b"".join(interfaces)

    def add(self, event: CaptureEvent) -> bytes:
        """The packets of an event, which are none for one of a connection that was not opened."""
        match event:
            case Opened():
                return self._open(event)
            case Segment():
                leg = self._legs.get((event.connection, event.leg))
                return leg.pass_on(event) if leg is not None else b""
            case Ended():
                legs = (self._legs.pop((event.connection, leg), None) for leg in _LEGS)
                return b"".join(leg.end(event) for leg in legs if leg is not None)

    def cut_off(self, time: float, lost: int, text: str) -> bytes:
        """What a file ends with where not everything could be written: so many events are missing."""
        return b"".join(blocks.statistics(number, time, lost, text) for number in _NUMBERS.values())

    def _open(self, opened: Opened) -> bytes:
        is_tcp = opened.listener.service_port.protocol is Protocol.TCP
        make = _TcpLeg if is_tcp else _UdpLeg
        comment = describe(opened)
        client = make(self._times, opened.connection, Leg.CLIENT, opened.client, opened.portal, comment)
        self._legs[opened.connection, Leg.CLIENT] = client
        packets = client.shake_hands(opened.accepted, opened.accepted) if opened.whole else b""
        if opened.node is None or opened.endpoint is None:
            return packets
        endpoint = SocketAddress(opened.endpoint.ip, opened.endpoint.port)
        backend = make(self._times, opened.connection, Leg.BACKEND, opened.node, endpoint, comment)
        self._legs[opened.connection, Leg.BACKEND] = backend
        if opened.whole:
            packets += backend.shake_hands(opened.dialed, opened.connected)
        return packets


class _Times:
    """Times that never step back."""

    def __init__(self) -> None:
        self._last = 0.0

    def of(self, time: float) -> float:
        """The time of the next packet: `time`, or that of the last one if that is later."""
        self._last = max(self._last, time)
        return self._last


class _UdpLeg:
    """One leg of a flow."""

    def __init__(
        self, times: _Times, _connection: int, leg: Leg, near: SocketAddress, far: SocketAddress, comment: str
    ) -> None:
        self._times = times
        self._leg = leg
        self._paths = {True: Path(near, far), False: Path(far, near)}
        self._comment = comment

    def shake_hands(self, _sent: float, _answered: float) -> bytes:
        """Nothing."""
        return b""

    def pass_on(self, segment: Segment) -> bytes:
        """A datagram."""
        missing = segment.size - len(segment.data)
        data = self._paths[segment.up].datagram(segment.data, missing)
        return self._block(segment.time, data, missing, up=segment.up)

    def end(self, _ended: Ended) -> bytes:
        """Nothing."""
        return b""

    def _block(self, time: float, data: bytes, missing: int = 0, *, up: bool) -> bytes:
        comment, self._comment = self._comment, ""
        inbound = up is (self._leg is Leg.CLIENT)
        at = self._times.of(time)
        return blocks.packet(_NUMBERS[self._leg], at, data, len(data) + missing, comment, inbound=inbound)


class _TcpLeg(_UdpLeg):
    """One leg of a connection: what is next in either direction, by whether that is up."""

    def __init__(
        self, times: _Times, connection: int, leg: Leg, near: SocketAddress, far: SocketAddress, comment: str
    ) -> None:
        super().__init__(times, connection, leg, near, far, comment)
        # Others than those of an earlier connection between the same ports, which would else look sent again.
        first = connection * 0x9E3779B1 & _SEQUENCE
        self._next = {True: first + 1 & _SEQUENCE, False: ~first + 1 & _SEQUENCE}
        self._unacknowledged = {True: 0, False: 0}
        self._finished = {True: False, False: False}
        self._last = True
        self._reset: Segment | None = None

    def shake_hands(self, sent: float, answered: float) -> bytes:
        """SYN, its answer, and ACK."""
        for up in (True, False):
            self._next[up] = self._next[up] - 1 & _SEQUENCE
        syn = self._packet(sent, SYN, options=_SYN_OPTIONS, up=True)
        answer = self._packet(answered, SYN | ACK, options=_SYN_OPTIONS, up=False)
        return syn + answer + self._packet(answered, ACK, up=True)

    def pass_on(self, segment: Segment) -> bytes:
        """Bytes or a FIN. A RST is written at the end."""
        match segment.kind:
            case SegmentKind.RST:
                self._reset = self._reset or segment
                return b""
            case SegmentKind.FIN:
                return self._finish(segment.time, up=segment.up)
            case SegmentKind.DATA:
                return self._data(segment)

    def end(self, ended: Ended) -> bytes:
        """What is still missing, and a last packet that says how it ended."""
        packets = b""
        text = describe_end(ended)
        ours = self._leg is Leg.BACKEND
        if self._reset is not None or ended.verdict is not Outcome.SERVED:
            self._comment = f"{self._comment}\n{text}" if self._comment else text
            up = self._reset.up if self._reset is not None else ours
            return self._packet(ended.time, RST | ACK, up=up)
        for up in (not ours, ours):
            packets += self._finish(ended.time, up=up)
        self._comment = text
        return packets + self._packet(ended.time, ACK, up=not self._last)

    def _finish(self, time: float, *, up: bool) -> bytes:
        if self._finished[up]:
            return b""
        packet = self._packet(time, FIN | ACK, up=up)
        self._finished[up] = True
        self._last = up
        return packet

    def _data(self, segment: Segment) -> bytes:
        up, size, packets = segment.up, segment.size, []
        for start in range(0, size, _SEGMENT):
            count = min(_SEGMENT, size - start)
            payload = segment.data[start : start + count]
            flags = ACK | PSH if start + count == size else ACK
            packets.append(self._packet(segment.time, flags, payload, count - len(payload), up=up))
        self._unacknowledged[up] += size
        if self._unacknowledged[up] >= _UNACKNOWLEDGED:
            packets.append(self._packet(segment.time, ACK, up=not up))
        return b"".join(packets)

    def _packet(
        self,
        time: float,
        flags: int,
        payload: bytes = b"",
        missing: int = 0,
        options: bytes = b"",
        *,
        up: bool,
    ) -> bytes:
        data = self._paths[up].segment(self._next[up], self._next[not up], flags, payload, missing, options)
        self._next[up] = self._next[up] + len(payload) + missing + bool(flags & (SYN | FIN)) & _SEQUENCE
        self._unacknowledged[not up] = 0
        return self._block(time, data, missing, up=up)


def describe(opened: Opened) -> str:
    """What was decided about a connection, on one line."""
    way = [str(opened.client), str(opened.portal)]
    if opened.node is not None and opened.endpoint is not None:
        way += [str(opened.node), str(opened.endpoint)]
    parts = [f"{opened.listener}: connection {opened.connection}, {' -> '.join(way)}"]
    parts += [f"tried before: {attempt.endpoint} ({attempt.reason})" for attempt in opened.tried]
    if opened.endpoint is not None and opened.listener.service_port.protocol is Protocol.TCP:
        parts.append(f"accepted by it in {opened.connected - opened.dialed:.6f} s")
    if not opened.whole:
        parts.append("captured from the middle on")
    return "; ".join(parts)


def describe_end(ended: Ended) -> str:
    """How a connection ended, on one line."""
    reason = f" ({ended.reason})" if ended.reason else ""
    figures = f"{ended.bytes_up} bytes up, {ended.bytes_down} bytes down, {ended.duration_seconds:.6f} s"
    return f"{ended.verdict}{reason}: {figures}"
