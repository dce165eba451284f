"""The writer for both variants and for any amount: one run of iptables-restore."""

import re

from userproxy.errors import KernelToolError
from userproxy.portals.changes import Change, Edit, restore_text
from userproxy.portals.programs import complaint, run_program
from userproxy.portals.variant import Tools
from userproxy.portals.writer import LOCK_SECONDS, ConflictError

_LINE = re.compile(r"\bline:? (\d{1,9})\b", re.ASCII)


class RestoreWriter:
    """Writes through ``iptables-restore --noflush``, which leaves alone what its input does not name."""

    def __init__(self, tools: Tools) -> None:
        # --wait-interval is not needed: from 1.8.9 on the lock is waited for without polling.
        self._command = (tools.restore, "--noflush", "--wait", str(LOCK_SECONDS))

    def apply(self, change: Change) -> None:
        text = restore_text(change)
        done = run_program(self._command, text)
        if done.returncode == 0:
            return
        if "xtables lock" in done.stderr:
            raise KernelToolError(f"the xtables lock could not be had: {complaint(done)}")
        raise ConflictError(complaint(done), _culprits(text, done.stderr))


def _culprits(text: str, said: str) -> list[Edit]:
    """The rules that were to be appended in the lines of `text` whose numbers were `said`."""
    lines = text.splitlines()
    found = []
    for number in map(int, _LINE.findall(said)):
        match lines[number - 1].split(" ", 2) if 0 < number <= len(lines) else ():
            case ["-A", chain, spec]:
                found.append(Edit("-A", chain, spec))
    return found
