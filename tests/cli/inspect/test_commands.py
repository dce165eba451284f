"""What all commands that ask have in common: their sentences, and their ends."""

import json
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.cli.inspect.asking import decided, decision, following, lines
from tests.cli.served import Running
from userproxy.cli import main


def test_nothing_found_is_no_error_but_a_service_that_there_is_not_is_one(proxy: Running) -> None:
    result = proxy.run("get", "connections", "-n", "nobody")
    assert (result.stdout, result.stderr, result.exit_code) == ("", "No connections found in nobody.\n", 0)
    assert json.loads(proxy.run("get", "connections", "-n", "nobody", "-o", "json").stdout) == {"items": []}
    for command in (("get", "connections"), ("describe", "service"), ("observe",), ("top", "services")):
        result = proxy.run(*command, "default/nope")
        sentence = "Error: no Service default/nope is served here: `userproxy get services` lists those that are\n"
        assert (result.stdout, result.stderr, result.exit_code) == ("", sentence, 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("get services web", "say which namespace the Service is in"),
        ("get services -l state=open", "-l: 'state=open' is not KEY=VALUE with one of the keys endpoint, protocol"),
        ("get services --sort-by nothing", "--sort-by: 'nothing' is not one of namespace, name, port"),
        ("get services -w --sort-by name", "--sort-by: changes come in the order of their times"),
        ("observe --from web", "--from: 'web' is not an IP address"),
        ("observe --to-endpoint web:80", "--to-endpoint: 'web' is not an IP address"),
    ],
)
def test_bad_usage_is_one_sentence(proxy: Running, arguments: str, sentence: str) -> None:
    result = proxy.run(*arguments.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: {sentence}")
    assert len(result.stderr.splitlines()) == 1


def test_ctrl_c_ends_it_without_a_word(proxy: Running) -> None:
    with following(proxy, "observe", "-f", "--last", "1") as process:
        lines(process, 1)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == ("", "")
        assert process.returncode == 130


def test_a_reader_that_goes_ends_it_without_a_word(proxy: Running) -> None:
    with following(proxy, "observe", "-f", "--last", "1") as process:
        lines(process, 1)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        proxy.tell(decided(decision(4)))
        assert process.wait(30) == 1
        assert process.stderr.read() == ""


def test_where_no_proxy_runs_every_command_says_what_to_do(tmp_path: Path) -> None:
    for command in ("get services", "describe service a/b", "observe", "observe -f", "top clients", "status", "diff"):
        result = CliRunner().invoke(main, [*command.split(), "--admin-socket", str(tmp_path / "no.sock")])
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"Error: there is no socket {tmp_path / 'no.sock'}: no userproxy runs here")
        assert len(result.stderr.splitlines()) == 1
