"""userproxy as a running process: its log, and what it uses."""

import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from userproxy.demo.hosts import Host
from userproxy.demo.programs import Program
from userproxy.demo.waiting import eventually


def installed_command() -> str:
    """The command that ``pip install`` has put beside the interpreter."""
    command = Path(sys.executable).with_name("userproxy")
    assert command.exists(), f"{command} is missing: install the project into this environment first"
    return str(command)


WORKERS = os.environ.get("USERPROXY_TEST_WORKERS", "")
"""How many data processes every proxy of the tests has that is not told otherwise; empty is userproxy's default."""

CONTROL = WORKERS or "0"
"""The label ``process`` that metrics have of the process that was started: those of data processes come before it."""

TURNS_APART = int(CONTROL) if int(CONTROL) > 1 else 0
"""How far endpoints that clients get in turn may be apart at most: each data process has turns of its own."""


class RunningProxy(Program):
    """``userproxy run`` in a host. ``lines`` is its log so far, one JSON object a line.

    `most_files` is its limit of open files, soft and hard; None leaves it as it is.
    """

    def __init__(
        self, host: Host, *flags: str, most_files: int | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        limited = ["prlimit", f"--nofile={most_files}:{most_files}"] if most_files is not None else []
        workers = ["--workers", WORKERS] if WORKERS and "--workers" not in flags else []
        self._mark = f"USERPROXY_TEST_PROXY={uuid4()}"
        name, _, value = self._mark.partition("=")
        super().__init__(host, [*limited, installed_command(), "run", *flags, *workers], {**(env or {}), name: value})

    def close(self) -> None:
        """End it, and the data processes that outlive it: they have its output, too.

        It goes first, for it would replace them; whom it has started meanwhile is found by another look.
        """
        if self.running:
            self.signal(signal.SIGKILL)
        while alive := _marked(self._mark):
            for pid in alive:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        super().close()

    def kill(self) -> None:
        """Send it SIGKILL, and wait for its end. Data processes serve on, and its output, which they share, goes on."""
        if len(self.processes) == 1:
            super().kill()
            return
        self.signal(signal.SIGKILL)
        self.wait_for_exit()

    @property
    def records(self) -> list[dict[str, Any]]:
        """The log so far, parsed. What is no JSON, a traceback for instance, stands under ``event``."""
        return [_parse(line) for line in list(self.lines)]

    def wait_log(self, text: str, seconds: float = 30.0) -> dict[str, Any]:
        """The first log record so far or to come that contains `text` anywhere; raises as `wait_line`."""
        return _parse(self.wait_line(text, seconds))

    @property
    def processes(self) -> list[int]:
        """The ids of its processes: its own, and those of its data processes (proc(5), task/.../children)."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [self.pid, *(int(child) for child in children if "userproxy.processes" in _command(int(child)))]

    def rss(self) -> int:
        """Resident memory in bytes, of all its processes (proc(5), status)."""
        return sum(_rss(pid) for pid in self.processes)

    def descriptors(self) -> int:
        """How many file descriptors are open, in all its processes."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self.processes)

    def descriptors_at_rest(self) -> int:
        """As :meth:`descriptors`, once it is at rest."""
        self.wait_at_rest()
        return self.descriptors()

    def wait_at_rest(self) -> None:
        """Wait until it listens for a successor, which is the last thing that it opens at its start.

        Its data processes, the one in reserve included, have started then, too.
        """
        sockets = Path(f"/proc/{self.pid}/net/unix")
        eventually(lambda: ".sock.takeover" in sockets.read_text(), 20, "it listens for a successor")
        data = self.processes[1:]
        eventually(lambda: not data or any(map(_is_in_reserve, self.processes[1:])), 20, "one waits to replace another")
        eventually(lambda: all(map(_waits_for_events, self.processes[1:])), 20, "its data processes wait for events")

    def cpu(self) -> float:
        """CPU seconds that its processes have used so far, in user and kernel mode (proc(5), stat fields 14 and 15)."""
        return sum(_cpu(pid) for pid in self.processes)


def _marked(mark: str) -> list[int]:
    """The processes that have this among their environment."""
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            with suppress(OSError):
                if mark.encode() in (each / "environ").read_bytes():
                    found.append(int(each.name))
    return found


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def _is_in_reserve(pid: int) -> bool:
    """Whether a data process was started to replace another; it comes some seconds after the others."""
    return "to replace another" in _command(pid)


def _waits_for_events(pid: int) -> bool:
    """Whether a process has started and has nothing to do: it sleeps in epoll_wait(2) (proc(5), wchan).

    The function of the kernel that it sleeps in has another name where the compiler has made one of two.
    """
    return Path(f"/proc/{pid}/wchan").read_text() in {"ep_poll", "do_epoll_wait"}


def _rss(pid: int) -> int:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _parse(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        return {"event": line}
    return record if isinstance(record, dict) else {"event": line}
