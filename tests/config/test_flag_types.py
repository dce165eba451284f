"""The text of a flag becomes a value, or a clause that names the text."""

from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userproxy.config import flag_types
from userproxy.config.flag_types import FlagType, choice, seconds
from userproxy.config.kubeproxy import VModule


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (flag_types.SWITCH, "T", True),
        (flag_types.SWITCH, "0", False),
        (flag_types.NUMBER, "-12", -12),
        (flag_types.NUMBER, "2147483647", 2**31 - 1),
        (flag_types.PORT, "0", 0),
        (flag_types.PORT, "65535", 65535),
        (flag_types.REAL, "1e3", 1000.0),
        (flag_types.REAL, ".5", 0.5),
        (flag_types.DURATION, "1m30s", "1m30s"),
        (flag_types.LIST, ["a, b", "c,,"], ("a", "b", "c")),
        (flag_types.GATES, ["A=true,B=false"], {"A": True, "B": False}),
        (flag_types.VMODULE, ["proxier=3"], (VModule(file_pattern="proxier", verbosity=3),)),
        (flag_types.PATHS, ["a", "b"], (Path("a"), Path("b"))),
        (flag_types.FILE, "", None),
        (flag_types.NAME, "", None),
        (flag_types.LABEL, "userproxy", "userproxy"),
        (choice(Colour), "red", Colour.RED),
        (seconds(zero=True), "0s", 0.0),
        (seconds(zero=False), "1m", 60.0),
    ],
)
def test_a_text_becomes_a_value(kind: FlagType, text: str | Sequence[str], value: object) -> None:
    assert kind.parse(text) == value


@pytest.mark.parametrize(
    ("kind", "text", "clause"),
    [
        (flag_types.SWITCH, "yes", "'yes' is not true or false"),
        (flag_types.NUMBER, "1.5", "'1.5' is not a whole number"),
        (flag_types.NUMBER, "2147483648", "2147483648 is too large"),
        (flag_types.NUMBER, "1" * 13, f"'{'1' * 13}' is not a whole number"),
        (flag_types.PORT, "65536", "'65536' is not a port from 0 to 65535"),
        (flag_types.PORT, "-1", "'-1' is not a port from 0 to 65535"),
        (flag_types.REAL, "nan", "'nan' is not a number"),
        (flag_types.REAL, "1e999", "'1e999' is not a number"),
        (flag_types.REAL, "1_0", "'1_0' is not a number"),
        (flag_types.DURATION, "30", "'30' is not a duration such as 250ms, 2s or 1m30s"),
        (flag_types.GATES, ["A"], "'A' is not a pair such as Gate=true"),
        (flag_types.GATES, ["A=maybe"], "'maybe' is not true or false"),
        (flag_types.VMODULE, ["=3"], "'=3' is not a pair such as pattern=3"),
        (flag_types.LABEL, " ", "an empty name selects no Service"),
        (flag_types.LABEL, "-a", "'-a' is not the value of a label, such as userproxy or proxy-2"),
        (choice(Colour), "green", "'green' is not one of red, blue"),
        (seconds(zero=False), "0s", "0s is not greater than 0"),
        (seconds(zero=True), "-1s", "-1s is negative"),
    ],
)
def test_a_wrong_text_is_named(kind: FlagType, text: str | Sequence[str], clause: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        kind.parse(text)
    assert str(caught.value) == clause


SINGLE = [
    each for each in vars(flag_types).values() if isinstance(each, FlagType) and not each.is_repeatable
]  # fmt: skip


@given(st.sampled_from(SINGLE), st.text(max_size=12))
def test_no_text_raises_anything_but_value_error(kind: FlagType, text: str) -> None:
    with suppress(ValueError):
        kind.parse(text)
