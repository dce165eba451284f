"""The program that spreads clients over sockets, asked of the kernel, and what it promises."""

import socket
from collections import Counter
from contextlib import ExitStack, closing

import pytest

from userproxy.forwarding.udp.groups.group import DatagramGroup
from userproxy.forwarding.udp.groups.spreading import member_of, program

PLACES = [("0.0.0.0", "127.0.0.1"), ("::", "::1")]


@pytest.mark.parametrize(("everywhere", "address"), PLACES, ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("members", [2, 3, 4])
@pytest.mark.parametrize("by_address", [False, True], ids=["by port", "by address"])
def test_the_kernel_brings_a_client_to_the_member_that_is_said(
    everywhere: str, address: str, members: int, by_address: bool
) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with closing(DatagramGroup.open(everywhere, 0)) as group, ExitStack() as stack:
        group.widen(members, by_address=by_address)
        clients = [stack.enter_context(socket.socket(family, socket.SOCK_DGRAM)) for _ in range(100)]
        expected: Counter[tuple[int, int]] = Counter()
        for client in clients:
            client.connect((address, group.port))
            port = client.getsockname()[1]
            expected[member_of((address, port), members, by_address=by_address), port] += 1
            client.send(b"x")
        found: Counter[tuple[int, int]] = Counter()
        for number, member in enumerate(group.members):
            member.settimeout(0)
            while True:
                try:
                    found[number, member.recvfrom(10)[1][1]] += 1
                except BlockingIOError:
                    break
        assert found == expected
        assert len({number for number, _ in found}) == (1 if by_address else members)


@pytest.mark.parametrize("network", ["10.244.%d.%d", "fd00:10:244::%x:%x"])
@pytest.mark.parametrize("members", [2, 3, 4])
def test_clients_are_spread_by_their_addresses_and_by_their_ports(network: str, members: int) -> None:
    """Within five standard deviations of an even share, which for 4,000 clients are 80 of 1,000 at the most."""
    addresses = [network % (number // 250, number % 250 + 1) for number in range(4000)]
    by_address = Counter(member_of((each, 0), members, by_address=True) for each in addresses)
    by_port = Counter(member_of((addresses[0], port), members) for port in range(32_768, 36_768))
    every_other = Counter(member_of((addresses[0], port), members) for port in range(32_768, 40_768, 2))
    for shares in (by_address, by_port, every_other):
        assert max(abs(share - 4000 / members) for share in shares.values()) <= 5 * (4000 / members) ** 0.5


def test_by_address_a_client_s_port_does_not_matter() -> None:
    assert len({member_of(("10.0.0.1", port), 4, by_address=True) for port in range(1, 500)}) == 1


@pytest.mark.parametrize("is_ipv6", [False, True])
def test_a_program_is_whole_instructions_and_names_the_number_of_members(is_ipv6: bool) -> None:
    assert len(program(3, is_ipv6=is_ipv6, by_address=False)) % 8 == 0
    assert program(3, is_ipv6=is_ipv6, by_address=False) != program(4, is_ipv6=is_ipv6, by_address=False)
