"""Announcements of nf_tables, as linux/netfilter/nf_tables.h has them."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from userproxy.portals import netlink
from userproxy.portals.netlink.transactions import Touched, Transaction, TransactionReader, is_later

IPV4, IPV6 = 2, 10
NEW_TABLE, DELETE_TABLE, NEW_CHAIN, NEW_RULE, DELETE_RULE, NEW_ELEMENT, NEW_GENERATION = (
    0xA00 | number for number in (0, 2, 3, 6, 8, 12, 15)
)
TABLE, SECOND, CHAIN = 1, 2, 3


def text(kind: int, value: str) -> bytes:
    return netlink.attribute(kind, value.encode() + b"\0")


def touch(kind: int, *attributes: bytes, family: int = IPV4) -> bytes:
    return netlink.message(kind, 0, bytes([family, 0, 0, 0]) + b"".join(attributes))


def generation(number: int, program: str = "nft", process: int = 7) -> bytes:
    body = b"".join(
        (
            netlink.attribute(1, struct.pack("!I", number)),
            netlink.attribute(2, struct.pack("!I", process)),
            text(3, program),
        )
    )
    return touch(NEW_GENERATION, body, family=0)


def read(*datagrams: bytes, ours: tuple[Touched, ...] = (), lost: bool = False) -> list[Transaction]:
    reader = TransactionReader(lambda touched: touched in ours)
    if lost:
        reader.lost()
    return [transaction for data in datagrams for transaction in reader.read(data)]


def test_what_is_touched_is_named_by_family_table_and_chain() -> None:
    seen: list[Touched] = []

    def look(touched: Touched) -> bool:
        seen.append(touched)
        return False

    reader = TransactionReader(look)
    data = b"".join(
        (
            touch(NEW_TABLE, text(TABLE, "nat"), netlink.attribute(SECOND, bytes(4))),
            touch(NEW_CHAIN, text(TABLE, "nat"), text(CHAIN, "DOCKER"), family=IPV6),
            touch(NEW_RULE, text(TABLE, "filter"), text(SECOND, "INPUT")),
            touch(NEW_ELEMENT, text(TABLE, "userproxy"), text(SECOND, "ports")),
            touch(DELETE_TABLE, text(TABLE, "nat")),
        )
    )
    assert list(reader.read(data)) == []
    assert seen == [
        Touched(IPV4, "nat", ""),
        Touched(IPV6, "nat", "DOCKER"),
        Touched(IPV4, "filter", "INPUT"),
        Touched(IPV4, "userproxy", "ports"),
        Touched(IPV4, "nat", ""),
    ]


def test_many_rules_of_one_chain_are_asked_about_once() -> None:
    seen: list[str] = []

    def look(touched: Touched) -> bool:
        seen.append(touched.name)
        return touched.name == "OURS"

    def rules(chain: str) -> bytes:
        numbered = (netlink.attribute(3, struct.pack("!Q", number)) for number in range(3))
        return b"".join(touch(NEW_RULE, text(TABLE, "nat"), text(SECOND, chain), each) for each in numbered)

    reader = TransactionReader(look)
    datagrams = (rules("DOCKER"), rules("DOCKER"), rules("DOCKERS") + rules("OURS"), generation(5), rules("DOCKER"))
    assert [each.concerns for data in datagrams for each in reader.read(data)] == [True]
    assert seen == ["DOCKER", "DOCKERS", "OURS", "DOCKER"]


def test_a_transaction_ends_with_its_generation_which_names_the_program() -> None:
    rule = touch(DELETE_RULE, text(TABLE, "nat"), text(SECOND, "OUTPUT"))
    ours = (Touched(IPV4, "nat", "OUTPUT"),)
    other = touch(DELETE_RULE, text(TABLE, "nat"), text(SECOND, "DOCKER"))
    assert read(rule, other, generation(5), other + generation(6, "firewalld", 9), ours=ours) == [
        Transaction(5, concerns=True, program="nft", process=7),
        Transaction(6, concerns=False, program="firewalld", process=9),
    ]


def test_the_rest_of_what_was_lost_in_part_may_concern_us() -> None:
    assert [each.concerns for each in read(generation(5), generation(6), lost=True)] == [True, False]


def test_messages_of_other_parts_of_netfilter_are_passed_over() -> None:
    entry = netlink.message(0x100, 0, bytes(4) + text(TABLE, "nat"))
    assert read(entry + generation(5), ours=(Touched(0, "nat", ""),)) == [Transaction(5, False, "nft", 7)]


def test_an_old_kernel_names_no_program() -> None:
    data = touch(NEW_GENERATION, netlink.attribute(1, struct.pack("!I", 5)), family=0)
    assert read(data) == [Transaction(5, concerns=False)]


@given(st.binary(max_size=200))
def test_junk_is_survived(data: bytes) -> None:
    for _ in TransactionReader(lambda _: True).read(data):
        pass


@given(
    st.sampled_from([NEW_TABLE, NEW_CHAIN, NEW_RULE, NEW_GENERATION]),
    st.binary(max_size=40) | st.builds(netlink.attribute, st.integers(0, 4), st.binary(max_size=6)),
    st.integers(0, 16),
    st.integers(-8, 1 << 24),
)
def test_messages_that_are_cut_or_say_a_wrong_length_are_survived(kind: int, body: bytes, cut: int, more: int) -> None:
    data = bytearray(touch(kind, body))
    data[:4] = struct.pack("=I", max(0, len(data) + more))
    for part in (bytes(data), bytes(data[: len(data) - cut]), netlink.message(kind, 0, body)):
        for _ in TransactionReader(lambda _: True).read(part):
            pass


@given(st.integers(0, (1 << 32) - 1), st.integers(1, 1 << 20))
def test_generations_begin_anew(number: int, more: int) -> None:
    later = (number + more) % (1 << 32)
    assert is_later(later, number)
    assert not is_later(number, later)
    assert not is_later(number, number)
