"""Top on a terminal, which is a pseudo terminal here."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.admin.planes import DNS, ONE, TWO, WEB
from tests.cli.served import Running, running

ALTERNATE, BACK = "\x1b[?1049h", "\x1b[?1049l"
"""Escape sequences by which a terminal shows another screen, and the one before again (xterm)."""


class Terminal:
    """A command on a terminal of 100 columns. `text` is what it has written so far."""

    def __init__(self, *command: str) -> None:
        self._ours, self._its = pty.openpty()
        self.before = termios.tcgetattr(self._its)
        fcntl.ioctl(self._its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        environment = {**os.environ, "TERM": "xterm"} | dict.fromkeys(("COLUMNS", "LINES", "NO_COLOR"), "")
        self.process = subprocess.Popen(
            command, stdin=self._its, stdout=self._its, stderr=self._its, env=environment, start_new_session=True
        )
        self.text = ""

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def wait(self, holds: Callable[[str], bool]) -> str:
        """Read until what was written since the last call satisfies this."""
        seen = ""
        while not holds(seen):
            seen += os.read(self._ours, 65536).decode()
        self.text += seen
        return seen

    @property
    def attributes(self) -> object:
        return termios.tcgetattr(self._its)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._its)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    with running(tmp_path) as proxy:
        proxy.tell(lambda api: api.control.add(WEB, ONE, TWO))
        proxy.tell(lambda api: api.control.add(DNS, ip="10.96.0.53", port=53))
        made = Terminal(*_top(proxy))
        yield made
        made.close()


def _top(proxy: Running) -> list[str]:
    return [sys.executable, "-m", "userproxy", "top", "services", "-d", "60", "--admin-socket", proxy.path]


def test_it_shows_rows_and_ends_with_q_leaving_the_terminal_as_it_was(terminal: Terminal) -> None:
    shown = terminal.wait(lambda text: "kube-system/dns:dns" in text)
    assert ALTERNATE in shown
    assert "services, every 60 s" in shown
    assert terminal.attributes != terminal.before
    terminal.press("q")
    terminal.wait(lambda text: BACK in text)
    assert terminal.process.wait(30) == 0
    assert terminal.attributes == terminal.before


def test_keys_change_what_is_shown(terminal: Terminal) -> None:
    terminal.wait(lambda text: "kube-system/dns:dns" in text)
    terminal.press("h")
    terminal.wait(lambda text: "Keys, as in top(1):" in text)
    terminal.press("x")
    terminal.wait(lambda text: "kube-system/dns:dns" in text)
    terminal.press("NR")
    swapped = terminal.wait(lambda text: "default/web:http" in text and "kube-system" in text)
    assert swapped.index("kube-system/dns") < swapped.index("default/web")
    terminal.press("d5\n")
    terminal.wait(lambda text: "services, every 5 s" in text)


def test_ctrl_c_ends_it_without_a_word(terminal: Terminal) -> None:
    terminal.wait(lambda text: "kube-system/dns:dns" in text)
    terminal.process.send_signal(2)
    last = terminal.wait(lambda text: BACK in text)
    assert terminal.process.wait(30) == 130
    assert "Traceback" not in last + terminal.text
    assert terminal.attributes == terminal.before
