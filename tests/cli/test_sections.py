"""The commands as a whole: the help lists them all, and those that nobody asks for are not imported."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from userproxy.cli import SECTIONS, main

NAMES = [name for places in SECTIONS.values() for name in places]


def test_the_help_lists_every_command_in_its_section() -> None:
    text = CliRunner().invoke(main, ["--help"]).output
    begins = [text.index(f"\n{title}:\n") for title in SECTIONS]
    assert begins == sorted(begins)
    for name in NAMES:
        assert f"\n  {name} " in text


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_and_the_name_that_it_is_called_by(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.name == name
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: main {name} ")


def test_a_command_that_there_is_not_is_bad_usage() -> None:
    result = CliRunner().invoke(main, ["serve"])
    assert (result.exit_code, "No such command 'serve'" in result.stderr) == (2, True)


def test_the_version_is_told_without_what_commands_need() -> None:
    script = (
        "import sys; from userproxy.cli import main\n"
        "try: main(['--version'])\n"
        "finally: print(*sorted({'asyncio', 'aiohttp', 'msgspec', 'rich', 'structlog', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[1:] == [""]
