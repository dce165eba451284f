"""A place where the demo can do as it likes: private user, process, network and mount namespaces.

They belong to one process and end with it, and with them every process, interface, rule and file of the
demo: nothing has to be cleaned up, whichever way it ends.
"""

import signal
import subprocess
from collections.abc import Sequence
from types import FrameType

from userproxy.demo.tools import missing_tools, packages_of, tool_environment
from userproxy.errors import UserproxyError


class SandboxError(UserproxyError):
    """The demo cannot run here; the text says what it would need."""


class _StoppedError(Exception):
    """A signal asks this process to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run_in_sandbox(argv: Sequence[str]) -> int:
    """Run a command in a sandbox, as root of it, and return its exit code.

    On SIGINT, SIGTERM or SIGHUP everything in the sandbox is killed and the result is 128 and the signal's
    number, as shells have it. Raises SandboxError where a tool is missing or namespaces are refused.
    """
    _check_tools()
    stop_signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    command = [*_entrance(), *argv]
    before = {number: signal.signal(number, _stop) for number in stop_signals}
    try:
        # A session of its own: the terminal's Ctrl-C reaches this process alone, which ends the rest.
        with subprocess.Popen(command, env=tool_environment(), start_new_session=True) as inside:
            try:
                return inside.wait()
            finally:
                inside.kill()
    except _StoppedError as stop:
        return 128 + stop.number
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _frame: FrameType | None) -> None:
    raise _StoppedError(number)


def _check_tools() -> None:
    missing = missing_tools(["ip", "iptables", "iptables-save", "iptables-restore", "setpriv", "unshare"])
    if missing:
        raise SandboxError(
            f"The demo needs {', '.join(missing)}, not found here (Debian, Ubuntu: apt install {packages_of(missing)})."
        )


def _entrance() -> list[str]:
    """The command prefix that enters a sandbox: with the rights at hand, or as root of a user namespace."""
    # setpriv comes after the user namespace: entering one clears the signal (prctl(2), PR_SET_PDEATHSIG).
    private = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]
    private += ["--mount-proc"]
    complaint = ""
    for prefix in (private, ["unshare", "--user", "--map-root-user", *private]):
        probe = subprocess.run(
            [*prefix, "true"], env=tool_environment(), stderr=subprocess.PIPE, text=True, check=False
        )
        if probe.returncode == 0:
            return prefix
        complaint = probe.stderr.strip()
    raise SandboxError(
        f"The demo needs private network namespaces, which are refused here ({complaint}): run it as root, or "
        "allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1; on Ubuntu "
        "kernel.apparmor_restrict_unprivileged_userns=0)."
    )
