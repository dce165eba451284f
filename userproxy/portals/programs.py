"""Running iptables' programs. Blocking: call it from a driver's own thread."""

import subprocess
from collections.abc import Sequence

from userproxy.errors import KernelToolError

_LACKING = ("not supported", "Could not fetch rule set generation id: Invalid argument")
"""What programs say where the kernel has no such tables, or no such family; the latter is iptables-nft's."""

TIME_LIMIT = 20.0
"""Seconds until a program counts as hung; a full load of 20,000 rules takes a third of one."""


def run_program(command: Sequence[str], text: str = "") -> subprocess.CompletedProcess[str]:
    """The program's exit status and output after it read `text`.

    Raises KernelToolError where it cannot be started or outlives TIME_LIMIT, whatever its exit status.
    """
    try:
        return subprocess.run(
            command,
            input=text,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIME_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise KernelToolError(f"{command[0]} did not finish within {TIME_LIMIT:.0f} s and was killed") from error
    except OSError as error:
        raise KernelToolError(f"{command[0]} cannot be started: {error.strerror}") from error


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """One sentence for a program that failed: its name, its exit status and what it said first."""
    said = [line.strip() for line in done.stderr.splitlines() if line.strip() and not line.startswith("#")]
    status = f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
    return f"{' '.join(done.args)} failed with {status}" + (f": {' '.join(said[:2])}" if said else "")


def save(program: str, table: str = "") -> str:
    """What iptables-save prints, of one table or of all that exist. Raises KernelToolError."""
    done = run_program([program, *(["-t", table] if table else [])])
    if done.returncode != 0:
        raise KernelToolError(complaint(done))
    return done.stdout


def kernel_lacks_it(error: KernelToolError) -> bool:
    """Whether a program failed because the kernel has no such tables at all: trying again would change nothing."""
    return any(text in str(error) for text in _LACKING)
