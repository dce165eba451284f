"""How commands end."""

import pytest

from userproxy.cli.inspect.ending import INTERRUPTED, ends_in_a_sentence
from userproxy.errors import UsageError


def test_ctrl_c_is_no_failure_to_tell_of(capsys: pytest.CaptureFixture[str]) -> None:
    @ends_in_a_sentence
    def command() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        command()
    assert (ended.value.code, capsys.readouterr()) == (INTERRUPTED, ("", ""))


def test_wrong_usage_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    @ends_in_a_sentence
    def command(name: str) -> None:
        raise UsageError(f"{name} is not the name of a Service")

    with pytest.raises(SystemExit) as ended:
        command("a/b/c")
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert "a/b/c is not the name of a Service" in said.err


def test_what_goes_well_is_handed_back() -> None:
    @ends_in_a_sentence
    def command(number: int) -> int:
        """What it says of itself."""
        return number + 1

    assert command(number=1) == 2
    assert command.__doc__ == "What it says of itself."
