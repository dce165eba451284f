"""The end of a with statement."""

import pytest

from userproxy.demo.closing import Closing


class Noted(Closing):
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def test_it_is_closed_once_at_the_end() -> None:
    noted = Noted()
    with noted as entered:
        assert (entered, noted.closed) == (noted, 0)
    assert noted.closed == 1


def test_it_is_closed_after_an_error_which_goes_on() -> None:
    noted = Noted()
    with pytest.raises(KeyError), noted:
        raise KeyError
    assert noted.closed == 1
