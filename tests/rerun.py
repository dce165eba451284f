"""``python -m tests.rerun PYTEST_ARGUMENTS...``: pytest, which tries the few tests that failed once more, one by one.

Tests in network namespaces share two processors with each other, and a deadline that is met everywhere else is missed
there now and then. What fails for a reason fails again. What passes is named, so that it can be looked at.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

MOST: Final = 5
"""More failures than these are no chance."""

FAILED: Final = Path("v", "cache", "lastfailed")
"""Where pytest's cache keeps the tests that failed."""

TESTS_FAILED: Final = 1
"""pytest's exit code; others say that tests could not be run."""


def main(arguments: Sequence[str]) -> int:
    """pytest's exit code: 0 also if all that failed has passed the second time."""
    with tempfile.TemporaryDirectory() as cache:
        return _run([sys.executable, "-m", "pytest", "-o", f"cache_dir={cache}", *arguments], Path(cache))


def _run(pytest: Sequence[str], cache: Path) -> int:
    code = subprocess.run(pytest, check=False).returncode
    if code != TESTS_FAILED:
        return code
    failed = sorted(json.loads((cache / FAILED).read_text()))
    if len(failed) > MOST:
        print(f"{len(failed)} tests failed: too many to try them again", flush=True)
        return code
    print("Tried again, one by one:", *failed, sep="\n  ", flush=True)
    again = subprocess.run(
        [*pytest, "--last-failed", "--last-failed-no-failures", "none", "--numprocesses", "0"], check=False
    )
    if again.returncode == 0:
        print("Passed the second time, to be looked at:", *failed, sep="\n  ", flush=True)
    return again.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
