"""Instructions for each request and connection: what is computed and printed of them."""

import pytest
from click.testing import CliRunner

from examples.benchmarks import callgrind
from examples.benchmarks.instructions import Counts, Run, difference, main, to_text

TABLE = """\
user instructions  at once  request  connection
userproxy          1        18,291   108,502
data process       16       11,478   93,851
"""


def test_what_a_run_takes_once_and_what_time_takes_is_in_no_piece_of_work() -> None:
    once, a_second, each = 70_000, 200_000, 11_500
    few = Run(160, once + a_second + 160 * each, 1.0)
    many = Run(1_120, once + 3 * a_second + 1_120 * each, 3.0)
    assert difference(few, many, Run(0, 2 * a_second, 2.0)) == each


def test_each_proxy_and_number_of_clients_has_a_line() -> None:
    assert to_text([Counts("userproxy", 1, 18_291.2, 108_501.7), Counts("data process", 16, 11_478, 93_851)]) == TABLE


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--proxies", "squid,haproxy"], "--proxies: squid cannot be counted"),
        (["--few", "100", "--many", "100"], "--few 100 is not below --many 100"),
        (["--at-once", "some", "--proxies", "userproxy"], "--at-once some: it is not a list of numbers above 0"),
        (["--at-once", "0"], "--at-once 0: it is not a list of numbers above 0"),
    ],
)
def test_one_sentence_says_what_is_wrong(arguments: list[str], sentence: str) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert sentence in done.output


@pytest.mark.parametrize("proxy", ["userproxy", "data process"])
def test_without_valgrind_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setattr(callgrind, "find_program", lambda _name: None)
    done = CliRunner().invoke(main, ["--proxies", proxy])
    assert (done.exit_code, done.output) == (1, "Error: valgrind is not installed (Debian package valgrind)\n")
