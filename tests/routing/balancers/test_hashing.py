"""Hashes that are the same everywhere."""

from hypothesis import given
from hypothesis import strategies as st

from userproxy.routing.balancers.hashing import MixedLanes, hash64, mixed


def test_they_are_the_same_for_ever() -> None:
    assert hash64("10.0.0.1") == 6021020536128996326
    assert hash64("10.0.0.1", b"skip") != hash64("10.0.0.1")
    assert mixed(1) == 0xB456BCFC34C2CB2C  # MurmurHash3's fmix64


def test_one_bit_changes_half_of_all() -> None:
    for bit in range(64):
        assert 10 <= (mixed(0x1234567 ^ 1 << bit) ^ mixed(0x1234567)).bit_count() <= 54


NUMBERS = st.integers(0, (1 << 64) - 1)


@given(st.lists(NUMBERS, min_size=1, max_size=40), NUMBERS)
def test_many_at_once_are_as_each_by_itself(numbers: list[int], key: int) -> None:
    assert list(MixedLanes(numbers).mixed(key)) == [mixed(key ^ number) for number in numbers]
