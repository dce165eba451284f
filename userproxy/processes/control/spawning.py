"""Starts data processes, and learns of their end."""

import asyncio
import os
import select
import signal
import site
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from msgspec import Struct

import userproxy
from userproxy.processes.channel import socket_pair
from userproxy.processes.messages import Logging

_CHANNEL: Final = 3
"""The number of the channel's descriptor in a data process."""

_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Spawning(Struct, frozen=True):
    """How to start data processes: the event loop of each, by the name of ``--event-loop``, and how it logs."""

    event_loop: str
    logging: Logging


def spawn(spawning: Spawning, words: str) -> tuple[int, socket.socket]:
    """Start a data process, which `words` describe to people; returns its id, and our end of its channel.

    Raises OSError. It runs until it is told to end, or its channel closes. Signals that end us by way of the terminal's
    process group are blocked in it until it ignores them.
    """
    ours, theirs = socket_pair()
    arguments = [sys.executable, "-P", "-m", "userproxy.processes", *words.split()]
    arguments += [f"--channel={_CHANNEL}", f"--event-loop={spawning.event_loop}"]
    arguments += [f"--verbosity={spawning.logging.verbosity}"]
    if spawning.logging.log_format is not None:
        arguments += [f"--logging-format={spawning.logging.log_format}"]
    try:
        with theirs:
            pid = os.posix_spawn(
                sys.executable,
                arguments,
                _environment(),
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), _CHANNEL)],
                setsigmask=_STOP_SIGNALS,
            )
    except BaseException:
        ours.close()
        raise
    return pid, ours


def _environment() -> dict[str, str]:
    """Ours, in which the same package is found that runs here."""
    home = str(Path(userproxy.__file__).parents[1])
    if home in site.getsitepackages():
        return dict(os.environ)
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([home, before] if before else [home])}


class Child:
    """A process that we have started. `ended` is called once with the words that say how it came to its end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pid: int, ended: Callable[[str], None]) -> None:
        """Raises OSError where no descriptor is left to watch it with."""
        self._loop = loop
        self._ended = ended
        self._descriptor = os.pidfd_open(pid)
        self.pid = pid
        self.is_over = False
        loop.add_reader(self._descriptor, self._reap)

    def kill(self) -> None:
        """End it at once, if it still runs."""
        if not self.is_over:
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def wait(self, end: float) -> None:
        """Wait, blocking, until it has ended, at most until `end` on the monotonic clock; then kill it."""
        if self.is_over:
            return
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        if not poll.poll(1000 * max(0.0, end - time.monotonic())):
            self.kill()
            poll.poll()
        self._reap()

    def _reap(self) -> None:
        if self.is_over:
            return
        try:
            how = _words(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:  # it was adopted: its end is told to another process
            how = "an end that another process is told of"
        self.is_over = True
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._ended(how)


def _words(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
