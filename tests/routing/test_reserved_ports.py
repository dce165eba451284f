import pytest
from hypothesis import given
from hypothesis import strategies as st

from userproxy.routing.reserved_ports import NODE_SERVICES, ReservedPorts, parse_reserved_ports

ports = st.integers(1, 65_535)
ranges = st.tuples(ports, ports).map(lambda pair: (min(pair), max(pair)))


@given(st.lists(ranges, max_size=5))
def test_what_is_written_is_read_again(given_ranges: list[tuple[int, int]]) -> None:
    reserved = ReservedPorts(tuple(given_ranges))
    assert parse_reserved_ports(str(reserved)) == reserved


def test_a_single_port_is_written_as_one() -> None:
    assert str(ReservedPorts(((22, 22), (2379, 2381)))) == "22,2379-2381"


@pytest.mark.parametrize(
    ("text", "among", "not_among"),
    [
        ("", (), (1, 10250, 65535)),
        ("22", (22,), (21, 23)),
        ("1,65535", (1, 65535), (2, 65534)),
        ("65535-65535", (65535,), (65534,)),
        (" 22 , 2379-2381 ", (22, 2379, 2380, 2381), (2378, 2382)),
    ],
)
def test_ports_and_ranges(text: str, among: tuple[int, ...], not_among: tuple[int, ...]) -> None:
    reserved = parse_reserved_ports(text)
    assert all(port in reserved for port in among)
    assert not any(port in reserved for port in not_among)


@pytest.mark.parametrize("text", ["0", "65536", "0-4", "4-65536", "5-4", "a", "1-", "-1", "1,,2", "1:2", "١", "1-2-3"])
def test_what_is_no_port_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not|ends before"):
        parse_reserved_ports(text)


def test_the_programs_of_a_node_are_reserved_by_default() -> None:
    etcd, api, kubelet, proxy, controllers, scheduler, problems = 2379, 6443, 10250, 10256, 10257, 10259, 20257
    assert all(each in NODE_SERVICES for each in (etcd, api, kubelet, proxy, controllers, scheduler, problems))
    assert not any(port in NODE_SERVICES for port in (80, 443, 8080, 30000))
