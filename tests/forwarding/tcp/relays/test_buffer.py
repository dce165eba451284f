"""Views of the buffer are kept by size, and there are none of what is no message."""

import pytest

from userproxy.forwarding.tcp.relays.buffer import NoMessageError, Parts


def test_beginnings_of_the_buffer_are_kept_by_size_and_not_without_bound() -> None:
    buffer = bytearray(b"message")
    parts = Parts(memoryview(buffer))
    assert bytes(parts[4]) == b"mess"
    assert parts[4] is parts[4]
    buffer[:4] = b"pass"
    assert bytes(parts[4]) == b"pass", "it shows what is there now"
    many = Parts(memoryview(bytearray(3000)))
    assert [len(many[size]) for size in range(1, 3000)] == list(range(1, 3000))
    assert len(many) <= 1024


@pytest.mark.parametrize("size", [0, 7])
def test_an_end_and_a_full_buffer_are_no_messages(size: int) -> None:
    parts = Parts(memoryview(bytearray(b"message")))
    assert len(parts[6]) == 6
    with pytest.raises(NoMessageError):
        parts[size]
