"""What the tests of these commands have in common: decisions, and commands that go on."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.admin.planes import ONE, WEB, Served
from tests.cli.served import Running
from userproxy.model import ListenerName
from userproxy.model.reports import (
    Attempt,
    Decision,
    Outcome,
    SocketAddress,
)

CLIENT = SocketAddress("10.2.0.9", 40000)
PORTAL = SocketAddress("10.96.0.10", 80)


def decision(number: int, verdict: Outcome = Outcome.SERVED, tried: tuple[Attempt, ...] = ()) -> Decision:
    name = ListenerName(WEB)
    return Decision(1.7e9 + number, name, CLIENT, PORTAL, ONE, verdict, "", tried, 0.25, 10, 2000, number)


def decided(made: Decision) -> Callable[[Served], None]:
    def told(api: Served) -> None:
        for watch in api.data.decision_watches:
            watch.tell(made)

    return told


@contextmanager
def following(proxy: Running, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A command that goes on, as a process of its own."""
    command = [sys.executable, "-m", "userproxy", *arguments, "--admin-socket", proxy.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def lines(process: "subprocess.Popen[str]", count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(count)]
