"""Instructions of a process, counted by callgrind, from one moment to another."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from examples.benchmarks.toolchain import find_program

MISSING = "valgrind is not installed (Debian package valgrind)"
_ANSWER_LIMIT = 60.0
_TOTALS = re.compile(r"^totals: (\d+)$", re.MULTILINE)


class CallgrindError(Exception):
    """valgrind is missing, or callgrind does not say what it has counted."""


def under_callgrind(command: Sequence[str], directory: Path) -> tuple[str, ...]:
    """`command` with its instructions counted, but not those of programs that it starts. Raises CallgrindError.

    The process is fifty times slower. It has the id that it would have without.
    """
    valgrind = find_program("valgrind")
    if valgrind is None or find_program("callgrind_control") is None:
        raise CallgrindError(MISSING)
    return (valgrind, "--tool=callgrind", f"--callgrind-out-file={directory}/callgrind.%p", *command)


class Counter:
    """Counts the instructions of a process that runs under :func:`under_callgrind`."""

    def __init__(self, pid: int, directory: Path) -> None:
        """`directory` is that of its command."""
        self._pid = pid
        self._directory = directory
        self._looks = 0

    def since(self) -> int:
        """Instructions in user mode since this was last asked for, or since the start. Raises CallgrindError."""
        command = [find_program("callgrind_control") or "callgrind_control", "--dump", str(self._pid)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_LIMIT, check=False)
        except subprocess.TimeoutExpired as error:
            raise CallgrindError(f"callgrind does not answer within {_ANSWER_LIMIT:g} s") from error
        self._looks += 1
        path = self._directory / f"callgrind.{self._pid}.{self._looks}"
        if not path.exists():
            said = " ".join((done.stdout + done.stderr).split())
            raise CallgrindError(f"callgrind has written nothing of process {self._pid}: {said}")
        return parse(path.read_text())


def parse(profile: str) -> int:
    """The instructions that a file of callgrind's tells of in all. Raises CallgrindError.

    Format: https://valgrind.org/docs/manual/cl-format.html; "totals" is the sum of the costs in one file, in the order
    of its "events", of which "Ir" are instructions and the only ones unless caches are simulated.
    """
    if "\nevents: Ir\n" not in profile:
        raise CallgrindError("what callgrind has written tells of no instructions: it has no line 'events: Ir'")
    totals = _TOTALS.findall(profile)
    if len(totals) != 1:
        raise CallgrindError(f"what callgrind has written has {len(totals)} lines 'totals: NUMBER' in place of one")
    return int(totals[0])
