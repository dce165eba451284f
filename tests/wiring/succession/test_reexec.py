"""How a process starts its successor."""

import sys

from userproxy.wiring.succession.reexec import command


def test_a_successor_has_our_arguments_and_takes_over() -> None:
    start = [sys.executable, "-m", "userproxy"]
    assert command(["/usr/bin/userproxy", "run", "--portals", "none"]) == [
        *start,
        "run",
        "--takeover",
        "--portals",
        "none",
    ]
    given = ["userproxy", "run", "--takeover=true", "--takeover", "-v", "2"]
    assert command(given) == [*start, "run", "--takeover", "-v", "2"]
