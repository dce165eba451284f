"""Programs that others wrote: what is missing is named, and so is how to get it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from userproxy.demo.hosts import Host
from userproxy.demo.tools import PACKAGES, ToolMissingError, missing_tools, packages_of, require_tool, tool_environment

MAKEFILE = Path(__file__).parents[2] / "Makefile"
CURE = r"dnsmasq is missing: apt install dnsmasq-base \(or, in a checkout, make packages\)"


def without(tool: str) -> list[str]:
    """The start of a command that sees a machine without `tool`, in a mount namespace of its own."""
    # /dev/null in its place makes the program one that cannot be executed.
    script = f'mount --bind /dev/null "$(readlink -f "$(command -v {tool})")" && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh"]


def test_what_is_there_is_not_missing() -> None:
    require_tool("sh")
    require_tool(sys.executable)
    assert missing_tools(["sh", "no-such-program", "env"]) == ["no-such-program"]


def test_a_missing_program_is_named_with_its_package(tmp_path: Path) -> None:
    with pytest.raises(ToolMissingError, match=f"^{CURE}$"):
        require_tool("dnsmasq", str(tmp_path))
    with pytest.raises(ToolMissingError, match=r"^no-such-program is missing$"):
        require_tool("no-such-program")


def test_a_host_says_so_at_once_instead_of_waiting_for_what_the_program_would_do(root: None) -> None:
    script = """
from userproxy.demo.hosts import Host
from userproxy.demo.programs import Program
with Host("one") as host:
    Program(host, ["dnsmasq", "--port=5353"])
"""
    done = subprocess.run([*without("dnsmasq"), sys.executable, "-c", script], capture_output=True, text=True)
    assert re.search(f"ToolMissingError: {CURE}$", done.stderr.rstrip()), done


def test_a_host_looks_where_the_command_would(host_path: Path, root: None) -> None:
    with Host("one") as host:
        path = f"{host_path}:{tool_environment()['PATH']}"
        with host.popen(["only-here"], stdout=subprocess.PIPE, env={"PATH": path}) as child:
            assert child.communicate()[0] == "found\n"
        with pytest.raises(ToolMissingError):
            host.popen(["only-here"])


@pytest.fixture
def host_path(tmp_path: Path) -> Path:
    program = tmp_path / "only-here"
    program.write_text("#!/bin/sh\necho found\n")
    program.chmod(0o755)
    return tmp_path


def test_each_package_is_one_that_make_installs() -> None:
    installed = set(re.findall(r"\S+", " ".join(re.findall(r"_PACKAGES := (.*)", MAKEFILE.read_text()))))
    assert set(PACKAGES.values()) <= installed
    assert packages_of(["ip6tables-restore", "no-such-program", "ss", "ip"]) == "iptables iproute2"
