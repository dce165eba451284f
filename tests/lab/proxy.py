"""userproxy as a running process: its log, and what it uses."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from userproxy.demo.hosts import Host
from userproxy.demo.programs import Program


def installed_command() -> str:
    """The command that ``pip install`` has put beside the interpreter."""
    command = Path(sys.executable).with_name("userproxy")
    assert command.exists(), f"{command} is missing: install the project into this environment first"
    return str(command)


WORKERS = os.environ.get("USERPROXY_TEST_WORKERS", "")
"""How many data processes every proxy of the tests has that is not told otherwise; empty is userproxy's default."""


class RunningProxy(Program):
    """``userproxy run`` in a host. ``lines`` is its log so far, one JSON object a line.

    `most_files` is its limit of open files, soft and hard; None leaves it as it is.
    """

    def __init__(
        self, host: Host, *flags: str, most_files: int | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        limited = ["prlimit", f"--nofile={most_files}:{most_files}"] if most_files is not None else []
        workers = ["--workers", WORKERS] if WORKERS and "--workers" not in flags else []
        super().__init__(host, [*limited, installed_command(), "run", *flags, *workers], env)

    @property
    def records(self) -> list[dict[str, Any]]:
        """The log so far, parsed. What is no JSON, a traceback for instance, stands under ``event``."""
        return [_parse(line) for line in list(self.lines)]

    def wait_log(self, text: str, seconds: float = 30.0) -> dict[str, Any]:
        """The first log record so far or to come that contains `text` anywhere; raises as `wait_line`."""
        return _parse(self.wait_line(text, seconds))

    def rss(self) -> int:
        """Resident memory in bytes (proc(5), status)."""
        fields = dict(line.split(":", 1) for line in self._proc("status").splitlines())
        return int(fields["VmRSS"].split()[0]) * 1024

    def descriptors(self) -> int:
        """How many file descriptors are open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu(self) -> float:
        """CPU seconds used so far, in user and kernel mode (proc(5), stat fields 14 and 15)."""
        fields = self._proc("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _proc(self, name: str) -> str:
        return Path(f"/proc/{self.pid}/{name}").read_text()


def _parse(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        return {"event": line}
    return record if isinstance(record, dict) else {"event": line}
