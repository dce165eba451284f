"""What became of clients, in the past and as it comes."""

import json

import pytest
from click.testing import CliRunner

from tests.cli.inspect.asking import decided, decision, following, lines
from tests.cli.served import Running
from userproxy.admin.client import AdminClient
from userproxy.cli import main
from userproxy.model.reports import (
    Outcome,
)

OBSERVED = """\
10.2.0.9:40000 -> 10.96.0.10:80 -> default/web:http -> 10.1.0.1:8080 TCP RETRIED \
(tried 10.1.0.2:8080: Connection refused; 250ms)
10.2.0.9:40000 -> 10.96.0.10:80 -> default/web:http -> 10.1.0.1:8080 TCP SERVED (250ms, 10B up, 2.0KiB down)
10.2.0.9:40000 -> 10.96.0.10:80 -> default/web:http -> 10.1.0.1:8080 TCP RESET (250ms, 10B up, 2.0KiB down)
"""


def without_times(text: str) -> str:
    return "".join(line.partition(": ")[2] for line in text.splitlines(keepends=True))


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [("", [0, 1, 2]), ("default/web", [0, 1, 2]), ("--last 1", [2]), ("--verdict served --verdict reset", [1, 2])],
)
def test_decisions_of_the_past(proxy: Running, arguments: str, lines: list[int]) -> None:
    result = proxy.run("observe", *arguments.split())
    assert without_times(result.stdout).splitlines() == [OBSERVED.splitlines()[each] for each in lines]


def test_decisions_as_json_are_an_object_a_line(proxy: Running) -> None:
    found = [json.loads(line) for line in proxy.run("observe", "-o", "json").stdout.splitlines()]
    assert found == proxy.api.client.get("decisions")["items"]
    assert list(found[0]) == [
        "time",
        "service",
        "port",
        "protocol",
        "client",
        "portal",
        "endpoint",
        "verdict",
        "reason",
        "tried",
        "duration_seconds",
        "bytes_up",
        "bytes_down",
        "source",
    ]


def test_decisions_as_they_come(proxy: Running) -> None:
    with following(proxy, "observe", "-f", "--last", "2") as process:
        past = lines(process, 2)
        proxy.tell(decided(decision(4, Outcome.TIMED_OUT)))
        assert without_times("".join(past)).splitlines() == OBSERVED.splitlines()[1:]
        assert " TCP TIMED-OUT (" in lines(process, 1)[0]


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ("", {"last": "20"}),
        ("-n default", {"namespace": "default", "last": "20"}),
        ("default/web --last 3", {"namespace": "default", "service": "web", "last": "3"}),
        ("--from 10.2.0.9 --last 3", {"client": "10.2.0.9", "last": "3"}),
        ("--to-endpoint 10.1.0.1:8080 --last 3", {"endpoint": "10.1.0.1:8080", "last": "3"}),
    ],
)
def test_what_is_asked_for(
    proxy: Running, monkeypatch: pytest.MonkeyPatch, arguments: str, asked: dict[str, str]
) -> None:
    found: list[dict[str, str]] = []

    def get(_client: AdminClient, path: str, **query: object) -> dict[str, list[object]]:
        found.append({key: str(value) for key, value in query.items() if value not in ("", (), None)})
        return {"items": []}

    monkeypatch.setattr(AdminClient, "get", get)
    monkeypatch.setattr(AdminClient, "items", lambda *_, **__: iter([{}]))
    assert proxy.run("observe", *arguments.split()).exit_code == 0
    assert found == [asked]


def test_none_of_the_past_are_none(proxy: Running) -> None:
    result = proxy.run("observe", "--last", "0")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_verdicts_have_colours_unless_nobody_wants_any(
    proxy: Running, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], coloured: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    shown = CliRunner().invoke(main, ["observe", "--admin-socket", proxy.path], color=True).stdout
    assert ("\x1b[" in shown) == coloured
