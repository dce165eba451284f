"""The writer for both variants and for any amount: one run of iptables-restore."""

from userproxy.errors import KernelToolError
from userproxy.portals.changes import Change, restore_text
from userproxy.portals.programs import complaint, run_program
from userproxy.portals.variant import Tools
from userproxy.portals.writer import LOCK_SECONDS, ConflictError


class RestoreWriter:
    """Writes through ``iptables-restore --noflush``, which leaves alone what its input does not name."""

    def __init__(self, tools: Tools) -> None:
        # --wait-interval is not needed: from 1.8.9 on the lock is waited for without polling.
        self._command = (tools.restore, "--noflush", "--wait", str(LOCK_SECONDS))

    def apply(self, change: Change) -> None:
        done = run_program(self._command, restore_text(change))
        if done.returncode == 0:
            return
        if "xtables lock" in done.stderr:
            raise KernelToolError(f"the xtables lock could not be had: {complaint(done)}")
        raise ConflictError(complaint(done))
