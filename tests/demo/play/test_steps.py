"""What the demo claims is checked: a claim that does not hold ends it. `tests/e2e/test_demo.py` plays all of it."""

import io
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from userproxy.demo.hosts import Host
from userproxy.demo.network import Network, Node, Pod
from userproxy.demo.play import steps
from userproxy.demo.play.screen import Screen
from userproxy.demo.play.steps import ClaimError, Demo, run_demo
from userproxy.demo.tools import ToolMissingError
from userproxy.demo.traffic import Tally


class Played:
    """A demo whose hosts are names alone, and what stands on its screen."""

    def __init__(self, folder: Path) -> None:
        self.text = io.StringIO()
        self.screen = Screen(Console(file=self.text, width=200))
        self.demo = object.__new__(Demo)  # to make one builds hosts
        self.pods = [pod("web-1", "10.0.0.1"), pod("web-2", "10.0.0.2")]
        self.demo._screen = self.screen
        self.demo._pods = list(self.pods)
        self.demo._manifests = folder
        self.demo._node = object.__new__(Node)
        self.demo._node.name = "node-1"

    @property
    def lines(self) -> list[str]:
        return self.text.getvalue().splitlines()

    def show(self, tally: Tally) -> None:
        self.demo._show("3 requests", ("10.96.0.10", 80), tally, self.pods)


def pod(name: str, address: str) -> Pod:
    made = object.__new__(Pod)
    made.name, made.address = name, address
    return made


def tally(pods: dict[str, int], *failures: str) -> Tally:
    return Tally(Counter(pods), Counter(), (0.001,) * sum(pods.values()), failures)


@pytest.fixture
def played(tmp_path: Path) -> Played:
    return Played(tmp_path)


def test_requests_that_all_pods_have_answered_are_shown_by_pod(played: Played) -> None:
    played.show(tally({"web-1": 100, "web-2": 50}))
    assert played.lines == [
        "   3 requests (10.96.0.10:80):",
        f"     web-1    {'█' * 40} 100",
        f"     web-2    {'█' * 20} 50",
        "   ✔ None failed; half of them took less than 1.0 ms.",
    ]


@pytest.mark.parametrize(
    ("found", "claim"),
    [
        (tally({"web-1": 1, "web-2": 1}, "refused"), "1 of 300 failed: refused"),
        (tally({"web-1": 2}), "Not every Pod that should has answered, or others have: web-2."),
        (tally({"web-1": 1, "web-2": 1, "web-9": 1}), "Not every Pod that should has answered, or others have: web-9."),
    ],
    ids=["failure", "missing", "stranger"],
)
def test_what_should_not_be_ends_it(played: Played, found: Tally, claim: str) -> None:
    with pytest.raises(ClaimError) as caught:
        played.show(found)
    assert str(caught.value) == claim
    assert "✔" not in played.text.getvalue()


def test_a_slice_names_the_pods_of_now_and_nothing_half_written_is_there_to_be_read(
    played: Played, tmp_path: Path
) -> None:
    (tmp_path / "endpointslice.yaml").write_text(steps._manifest("endpointslice.yaml"))
    before = yaml.safe_load(steps._manifest("endpointslice.yaml"))
    played.demo._name_endpoints(played.pods)
    after = yaml.safe_load((tmp_path / "endpointslice.yaml").read_text())
    assert [each["addresses"] for each in after.pop("endpoints")] == [["10.0.0.1"], ["10.0.0.2"]]
    before.pop("endpoints")
    assert after == before, "nothing else of it has changed"
    assert [each.name for each in tmp_path.iterdir()] == ["endpointslice.yaml"]


def test_of_a_long_log_the_end_is_shown(played: Played) -> None:
    played.demo._log = []
    assert played.demo.last_words() == []
    played.demo._log = [str(number) for number in range(100)]
    assert played.demo.last_words() == ["The end of userproxy's log:", *map(str, range(80, 100))]


def test_without_hosts_it_says_why_and_fails(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_host: Host) -> None:
        raise ToolMissingError("There is no ip here.")

    monkeypatch.setattr(Network, "__enter__", refuse)
    assert run_demo(played.screen) == 1
    assert [line for line in played.lines if line] == ["   ✘ There is no ip here."]


def test_a_claim_that_fails_is_told_with_the_end_of_the_log(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(self: Demo, _screen: Screen, _stack: ExitStack) -> None:
        self._log = ["Listening", "Bug"]

    def fail(_self: Demo) -> None:
        raise ClaimError("The Service answers, but no rule names it.")

    monkeypatch.setattr(Demo, "__init__", make)
    monkeypatch.setattr(Demo, "play", fail)
    assert run_demo(played.screen) == 1
    assert [line.strip() for line in played.lines if line] == [
        "✘ The Service answers, but no rule names it.",
        "The end of userproxy's log:",
        "Listening",
        "Bug",
    ]
