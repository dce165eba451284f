"""The screen of top: what it shows, and what its keys do."""

import pytest

from userproxy.cli.top.rates import Row
from userproxy.cli.top.screen import HELP, Reaction, Screen

ROWS = [
    Row("default/api:http", 3, 0.5, 10.0, 20.0, 0.0, 0.0002, 0.004),
    Row("default/idle:http", 0, 0.0, 0.0, 0.0, 0.0),
    Row("default/web:http", 1, 125.0, 2048.0, 1.5, 2.25, 0.0009, 0.25),
]

TABLE = """\
SERVICE             ACTIVE   CONN/S     UP/S   DOWN/S   ERR/S   DIAL-P50   DIAL-P99
default/web:http         1      125   2.0KiB       2B     2.2      900us      250ms
default/api:http         3      0.5      10B      20B     0.0      200us     4.00ms
default/idle:http        0      0.0       0B       0B     0.0          -          -"""


def screen() -> Screen:
    made = Screen("SERVICE")
    made.show(ROWS)
    return made


def names(shown: Screen) -> str:
    return " ".join(line.split("/")[1].split(":")[0] for line in shown.table()[1:])


def press(shown: Screen, keys: str) -> Reaction:
    reaction = Reaction.NOTHING
    for key in keys:
        reaction = shown.press(key)
    return reaction


def test_rows_are_sorted_by_connections_a_second() -> None:
    assert "\n".join(screen().table()) == TABLE


@pytest.mark.parametrize(
    ("keys", "order"),
    [
        ("", "web api idle"),
        ("C", "web api idle"),
        ("CR", "idle api web"),
        ("CRR", "web api idle"),
        ("N", "api idle web"),
        ("NR", "web idle api"),
        ("B", "web api idle"),
        ("E", "web api idle"),
        ("A", "api web idle"),
        ("<", "api web idle"),
        ("<<", "api idle web"),
        ("<<<<<", "api idle web"),
        (">>", "api web idle"),
        (">>>>>>>>", "web api idle"),
        ("B<", "web api idle"),
        ("i", "web api"),
        ("ii", "web api idle"),
        ("x", "web api idle"),
    ],
)
def test_keys_sort_and_hide(keys: str, order: str) -> None:
    shown = screen()
    press(shown, keys)
    assert names(shown) == order


@pytest.mark.parametrize(("key", "reaction"), [("q", Reaction.QUIT), (" ", Reaction.LOOK), ("\n", Reaction.LOOK)])
def test_keys_end_it_and_look_again(key: str, reaction: Reaction) -> None:
    assert screen().press(key) is reaction


@pytest.mark.parametrize(
    ("keys", "delay"),
    [
        ("d5\n", 5.0),
        ("s0.5\r", 0.5),
        ("d12\x7f\n", 1.0),
        ("d0\n", 0.1),
        ("dx\n", 2.0),
        ("d7\x1b", 2.0),
        ("d1.2.3\n", 2.0),
    ],
)
def test_the_delay_is_typed(keys: str, delay: float) -> None:
    shown = screen()
    press(shown, keys)
    assert shown.delay == delay


def test_a_delay_is_seen_while_it_is_typed_and_q_does_not_end_it() -> None:
    shown = screen()
    assert press(shown, "d1q") is Reaction.NOTHING
    assert shown.lines("head", 80, 24)[:2] == ["head", "Seconds between two looks (now 2): 1"]


@pytest.mark.parametrize("key", "h?")
def test_help_is_left_by_any_key(key: str) -> None:
    shown = screen()
    shown.press(key)
    assert shown.lines("head", 200, 50)[2:] == HELP.splitlines()
    assert shown.press("q") is Reaction.NOTHING
    assert shown.lines("head", 200, 50)[2:] == TABLE.splitlines()


def test_no_line_is_longer_or_lower_than_the_screen() -> None:
    assert screen().lines("a head that is long", 10, 4) == ["a head tha", "", "SERVICE   ", "default/we"]


def test_rows_are_scrolled_under_the_heading() -> None:
    shown = screen()
    for _ in range(2):
        shown.press("down")
    heading, *rows = shown.lines("head", 200, 24)[2:]
    assert (heading, rows) == (TABLE.splitlines()[0], TABLE.splitlines()[3:])
    for _ in range(9):
        shown.press("down")
    assert len(shown.lines("head", 200, 24)) == 4, "the last row stays"
    shown.press("up")
    assert len(shown.lines("head", 200, 24)) == 5
    shown.press("home")
    assert shown.lines("head", 200, 24)[2:] == TABLE.splitlines()


def test_without_rows_there_is_the_heading_alone() -> None:
    empty = Screen("CLIENT")
    empty.press("down")
    assert len(empty.table()) == 1
