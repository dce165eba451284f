import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userproxy.errors import ObjectError
from userproxy.forwarding.admission import admits_everybody, attach, detach, program, program_for
from userproxy.model import Admission, AdmissionRule, IPFamily, ListenerName, Protocol, ServicePortName, TrafficClass

LISTENER = ListenerName(ServicePortName("shop", "web", "http", Protocol.TCP))
OTHER = ListenerName(LISTENER.service_port, IPFamily.IPV4, TrafficClass.EXTERNAL)

EVERYBODY = (AdmissionRule("", LISTENER),)
NOBODY: tuple[AdmissionRule, ...] = ()

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def run(instructions: bytes, source: Address, interface: int) -> int:
    """What the program returns for a packet: how much of it is kept."""
    code = list(struct.iter_unpack("HBBI", instructions))
    at, accumulator = 0, 0
    begin = 12 if source.version == 4 else 8
    while True:
        operation, if_true, if_false, value = code[at]
        at += 1
        if operation == 0x20 and value == 0xFFFFF008:
            accumulator = interface
        elif operation == 0x20:
            offset = value - (0x100000000 - 0x100000) - begin
            accumulator = int.from_bytes(source.packed[offset : offset + 4], "big")
        elif operation == 0x54:
            accumulator &= value
        elif operation == 0x15:
            at += if_true if accumulator == value else if_false
        elif operation == 0x05:
            at += value
        else:
            assert operation == 0x06
            return int(value)


def admitted(rules: tuple[AdmissionRule, ...], source: Address) -> bool:
    for rule in rules:
        if not rule.network or source in ip_network(rule.network):
            return rule.listener is not None
    return False


def networks(version: int) -> st.SearchStrategy[str]:
    bits, size = (32, IPv4Address) if version == 4 else (128, IPv6Address)
    wide = st.integers(0, 2**bits - 1).map(size)
    near = st.integers(0, 7).map(lambda low: ip_address("10.1.2.0" if version == 4 else "fd00:1::1:0") + low)
    pair = st.tuples(wide | near, st.integers(1, bits))
    return pair.map(lambda found: str(ip_network((str(found[0]), found[1]), strict=False)))


def rules(version: int) -> st.SearchStrategy[tuple[AdmissionRule, ...]]:
    rule = st.builds(AdmissionRule, networks(version) | st.just(""), st.sampled_from([LISTENER, OTHER, None]))
    return st.lists(rule, max_size=4).map(tuple)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Admission, Address]:
    version = draw(st.sampled_from([4, 6]))
    admission = Admission(draw(rules(version)), draw(rules(version)))
    near = [ip_network(rule.network).network_address for rule in (*admission.host, *admission.others) if rule.network]
    bits = 32 if version == 4 else 128
    wide = st.integers(0, 2**bits - 1).map(lambda number: (IPv4Address if version == 4 else IPv6Address)(number))
    return admission, draw(st.sampled_from(near) | wide if near else wide)


@given(cases(), st.integers(1, 5))
def test_a_program_lets_in_whom_the_first_rule_that_fits_lets_in(
    case: tuple[Admission, Address], interface: int
) -> None:
    admission, source = case
    expected = admitted(admission.host if interface == 1 else admission.others, source)
    assert bool(run(program(admission), source, interface)) is expected
    if admits_everybody(admission):
        assert expected


@pytest.mark.parametrize(
    ("host", "others", "everybody"),
    [
        (EVERYBODY, EVERYBODY, True),
        (EVERYBODY, NOBODY, False),
        (NOBODY, EVERYBODY, False),
        ((AdmissionRule("10.0.0.0/8", LISTENER), AdmissionRule("", OTHER)), EVERYBODY, True),
        ((AdmissionRule("10.0.0.0/8", None), AdmissionRule("", OTHER)), EVERYBODY, False),
    ],
)
def test_no_program_is_needed_where_nobody_is_kept_out(
    host: tuple[AdmissionRule, ...], others: tuple[AdmissionRule, ...], everybody: bool
) -> None:
    admission = Admission(host, others)
    assert admits_everybody(admission) is everybody
    assert program_for(admission) == (None if everybody else program(admission))


def test_a_thousand_ranges_that_let_the_host_in_as_everybody_else_are_one_program() -> None:
    ranges = tuple(AdmissionRule(f"10.{number // 250}.{number % 250}.0/28", LISTENER) for number in range(1000))
    instructions = program(Admission(ranges, (*ranges, AdmissionRule("10.0.1.0/29", OTHER))))
    for interface in (1, 2):
        assert run(instructions, ip_address("10.3.249.9"), interface)
        assert not run(instructions, ip_address("10.3.249.16"), interface)


def test_more_networks_than_a_program_can_hold_are_refused_with_their_number() -> None:
    many = tuple(AdmissionRule(f"fd00:{number:x}::/120", LISTENER) for number in range(400))
    with pytest.raises(ObjectError, match="400 networks are more than a socket filter can tell apart"):
        program(Admission((), many))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def knock(listener: socket.socket, source: str) -> bool:
    with socket.socket() as client:
        client.settimeout(0.2)
        client.bind((source, 0))
        try:
            client.connect(listener.getsockname())
        except TimeoutError:
            return False
        return True


def test_the_kernel_leaves_clients_that_are_not_let_in_without_an_answer(listener: socket.socket) -> None:
    attach(listener, program(Admission((AdmissionRule("127.0.7.0/24", LISTENER),), EVERYBODY)))
    assert knock(listener, "127.0.7.9")
    assert not knock(listener, "127.0.8.9")
    attach(listener, program(Admission((AdmissionRule("127.0.8.0/24", LISTENER),), NOBODY)))
    assert knock(listener, "127.0.8.9")
    assert not knock(listener, "127.0.7.9")
    detach(listener)
    assert knock(listener, "127.0.7.9")


def test_datagrams_of_clients_that_are_not_let_in_are_not_received() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(2)
        attach(server, program(Admission((AdmissionRule("127.0.7.0/24", LISTENER),), NOBODY)))
        for source in ("127.0.8.9", "127.0.7.9"):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.bind((source, 0))
                client.sendto(source.encode(), server.getsockname())
        assert server.recv(99) == b"127.0.7.9"


def test_an_ipv6_client_is_told_by_its_address() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        attach(server, program(Admission((AdmissionRule("fd00::/8", LISTENER),), EVERYBODY)))
        with socket.socket(socket.AF_INET6) as client:
            client.settimeout(0.2)
            with pytest.raises(TimeoutError):
                client.connect(server.getsockname())
        attach(server, program(Admission((AdmissionRule("::1/128", LISTENER),), NOBODY)))
        with socket.socket(socket.AF_INET6) as client:
            client.settimeout(2)
            client.connect(server.getsockname())
