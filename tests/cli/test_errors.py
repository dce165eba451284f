"""How errors leave a command."""

import click
import pytest
from click.testing import CliRunner

from userproxy.cli.errors import exit_on_usage_error
from userproxy.errors import KernelToolError, UsageError


def command_that_raises(error: BaseException | None) -> click.Command:
    @click.command()
    @exit_on_usage_error
    def command() -> None:
        """What it does."""
        if error is not None:
            raise error

    return command


@pytest.mark.parametrize(
    ("error", "code"), [(UsageError("--portals: 'x' is none"), 2), (KernelToolError("iptables ended with 4"), 1)]
)
def test_an_error_of_ours_is_one_sentence_and_an_exit_code(error: Exception, code: int) -> None:
    result = CliRunner().invoke(command_that_raises(error))
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", f"Error: {error}\n")


def test_a_command_that_ends_well_is_left_alone() -> None:
    result = CliRunner().invoke(command_that_raises(None))
    assert (result.exit_code, result.output) == (0, "")


def test_any_other_error_is_a_bug_and_keeps_its_traceback() -> None:
    result = CliRunner().invoke(command_that_raises(ZeroDivisionError("bug")))
    assert isinstance(result.exception, ZeroDivisionError)


def test_help_is_the_command_s_own() -> None:
    assert "What it does." in CliRunner().invoke(command_that_raises(None), ["--help"]).output
