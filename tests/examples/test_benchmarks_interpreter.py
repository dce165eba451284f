"""What benchmarks say of the Python that they ran on."""

import platform
import sys
from subprocess import run

import pytest

from examples.benchmarks.everything import to_text
from examples.benchmarks.interpreter import build_of, interpreter

GCC = {"PGO_PROF_GEN_FLAG": "-fprofile-generate", "PGO_PROF_USE_FLAG": "-fprofile-use -fprofile-correction"}


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"CONFIG_ARGS": "'--enable-shared'", "CFLAGS": "-O3", **GCC}, "built without PGO and without LTO"),
        ({"CONFIG_ARGS": "'--enable-optimizations' '--with-lto'", **GCC}, "built with PGO and with LTO"),
        ({"CONFIG_ARGS": "'--enable-optimizations'", **GCC}, "built with PGO and without LTO"),
        ({"CONFIG_ARGS": "'--with-lto=full'", **GCC}, "built without PGO and with LTO"),
        ({"CONFIG_ARGS": "'--with-lto=no'", **GCC}, "built without PGO and without LTO"),
        ({"PY_CORE_CFLAGS": "-fprofile-use", "PY_CORE_LDFLAGS": "-flto=auto", **GCC}, "built with PGO and with LTO"),
        ({"CONFIG_ARGS": "'--enable-shared'", **GCC, "PGO_PROF_USE_FLAG": ""}, "does not say how it was built"),
        ({}, "built without PGO and without LTO"),
    ],
)
def test_how_a_python_was_built(variables: dict[str, str], text: str) -> None:
    assert text in build_of(variables)


def test_this_one_is_named_with_its_version_and_build() -> None:
    assert interpreter().startswith(f"CPython {platform.python_version()}, ")
    assert interpreter().endswith(build_of_this_one())


def build_of_this_one() -> str:
    """The same of a process of its own, which reads sysconfig itself."""
    program = "import sysconfig, sys; from examples.benchmarks.interpreter import build_of; "
    program += "sys.stdout.write(build_of({k: str(v) for k, v in sysconfig.get_config_vars().items()}))"
    return run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout


def test_reports_say_it() -> None:
    assert interpreter() in to_text([]).splitlines()[0]
    command = [sys.executable, "-m", "examples.benchmarks", "calls", "--connections", "16", "--at-once", "4"]
    assert run(command, check=True, capture_output=True, text=True).stdout.startswith(f"{interpreter()}\n")
