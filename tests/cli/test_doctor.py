"""What ``userproxy doctor`` prints, and how it ends."""

import json
import os
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from userproxy.cli import main


def in_namespaces(*flags: str) -> "subprocess.CompletedProcess[str]":
    if os.geteuid() != 0:
        pytest.skip("needs root: looks at a network namespace of its own")
    script = 'mount -t tmpfs none /run; ip link set lo up; exec "$0" -m userproxy doctor "$@"'
    command = ["unshare", "--net", "--mount", "sh", "-e", "-c", script, sys.executable, *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_line_for_each_finding_and_exit_code_1_if_something_fails() -> None:
    done = in_namespaces()
    lines = done.stdout.splitlines()
    for line in lines:
        assert re.fullmatch(r"(ok  |warn|fail)  [\w ]+: .+", line)
        assert (" -> " in line) == (not line.startswith("ok"))
    (failed,) = [line for line in lines if line.startswith("fail")]
    assert failed.startswith("fail  node address: IPv4: no interface that is up has a global IPv4 address")
    assert (done.returncode, done.stderr) == (1, "")


def test_json_has_the_same_and_nothing_that_fails_is_exit_code_0() -> None:
    done = in_namespaces("--portals", "none", "-o", "json")
    items = json.loads(done.stdout)["items"]
    assert {frozenset(item) for item in items} == {frozenset({"name", "result", "text", "advice"})}
    assert "fail" not in {item["result"] for item in items}
    assert (done.returncode, done.stderr) == (0, "")


def test_a_wrong_flag_is_bad_usage() -> None:
    result = CliRunner().invoke(main, ["doctor", "--portals", "magic"])
    assert (result.exit_code, "--portals: 'magic' is not one of" in result.stderr) == (2, True)
