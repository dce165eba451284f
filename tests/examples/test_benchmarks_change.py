"""Instructions of a changed slice: what may be asked for."""

import pytest
from click.testing import CliRunner

from examples.benchmarks import callgrind
from examples.benchmarks.change import main


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--few", "100", "--many", "100"], "--few 100, --many 100: 0 < few < many is needed, and 300 in all"),
        (["--few", "100", "--many", "101"], "--few 100, --many 101: 0 < few < many is needed"),
    ],
)
def test_one_sentence_says_what_is_wrong(arguments: list[str], sentence: str) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert sentence in " ".join(done.output.split())


def test_without_valgrind_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callgrind, "find_program", lambda _name: None)
    done = CliRunner().invoke(main, [])
    assert (done.exit_code, done.output) == (1, "Error: valgrind is not installed (Debian package valgrind)\n")
