"""Programs that run in a host for longer than a moment, with their output collected as it comes."""

import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import IO, cast

from userproxy.demo.closing import Closing
from userproxy.demo.hosts import Host
from userproxy.demo.waiting import Deadline, DeadlineError, eventually
from userproxy.errors import UserproxyError


class ProgramEndedError(UserproxyError):
    """A program ended that should still run; the text has its exit code and its last lines."""


class Program(Closing):
    """A running program. ``lines`` holds what it has written so far, both streams in order of arrival.

    Closing kills it if it still runs. Use as a context manager.
    """

    def __init__(self, host: Host, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self.host = host
        self.lines: list[str] = []
        self._name = " ".join(argv[:4])
        self._changed = threading.Condition()
        self._ended = False
        self._child = host.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env)
        self._reader = threading.Thread(target=self._collect, name=f"output of {self._name}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    def wait_line(self, text: str, seconds: float = 30.0) -> str:
        """The first line so far or to come that contains `text`.

        Raises ProgramEndedError where the program ends without it, DeadlineError after `seconds`.
        """
        deadline = Deadline(seconds)
        seen = 0
        with self._changed:
            while True:
                for line in self.lines[seen:]:
                    if text in line:
                        return line
                seen = len(self.lines)
                if self._ended:
                    raise ProgramEndedError(f"{self._name} ended without {text!r}: {self._last_words()}")
                if not self._changed.wait(deadline.left) and not deadline.left:
                    raise DeadlineError(f"{self._name}: no {text!r} in {seconds:g} s: {self._last_words()}")

    def wait_port(self, port: int, seconds: float = 30.0) -> None:
        """Return when something in the host listens on the TCP port, without connecting to it.

        Raises ProgramEndedError where the program ends before, DeadlineError after `seconds`.
        """

        def listens() -> bool:
            if not self.running:
                self.wait()  # for its last words
                raise ProgramEndedError(f"{self._name} ended before it listened on port {port}: {self._last_words()}")
            return port in self.host.listening_ports()

        eventually(listens, seconds, f"{self.host.name}: {self._name}: a listener on port {port}")

    def signal(self, number: signal.Signals) -> None:
        self._child.send_signal(number)

    def wait(self, seconds: float = 30.0) -> int:
        """The exit code, negative for a signal's number, once all it has written is there, too.

        Raises DeadlineError after `seconds`.
        """
        code = self.wait_for_exit(seconds)
        self._reader.join(seconds)
        return code

    def wait_for_exit(self, seconds: float = 30.0) -> int:
        """As :meth:`wait`, for one whose output programs have that it has started, and that run on."""
        deadline = Deadline(seconds)
        while True:
            try:
                return self._child.wait(deadline.left)
            except subprocess.TimeoutExpired as error:
                if not deadline.left:
                    text = f"{self._name} still runs after {seconds:g} s: {self._last_words()}"
                    raise DeadlineError(text) from error

    def terminate(self, seconds: float = 30.0) -> int:
        """Send SIGTERM and wait; see `wait`."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def kill(self) -> None:
        """Send SIGKILL and wait."""
        self.signal(signal.SIGKILL)
        self.wait()

    def close(self) -> None:
        with self._child:
            self._child.kill()
            self._reader.join()

    def _collect(self) -> None:
        for line in cast(IO[str], self._child.stdout):
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _last_words(self) -> str:
        return "\n".join(["", *self.lines[-10:]]) if self.lines else "it wrote nothing"


def wait_for_port(host: Host, port: int, seconds: float = 30.0) -> None:
    """Return when something in `host` listens on the TCP port, without connecting to it. Raises DeadlineError."""
    eventually(lambda: port in host.listening_ports(), seconds, f"{host.name}: a listener on port {port}")
