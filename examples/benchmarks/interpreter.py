"""Which Python runs a benchmark, and userproxy with it, and how that was built.

A Python that is compiled without profiles (PGO) and without optimisation of the whole program (LTO), as pyenv's is by
default, takes about a fifth more for the same work.
"""

import platform
import sysconfig
from collections.abc import Mapping
from typing import Final

_FLAGS: Final = ("CFLAGS", "LDFLAGS", "PY_CFLAGS", "PY_CORE_CFLAGS", "PY_CORE_LDFLAGS")


def interpreter() -> str:
    """This Python: its name, version and build."""
    built = build_of({key: str(value) for key, value in sysconfig.get_config_vars().items()})
    return f"{platform.python_implementation()} {platform.python_version()}, {built}"


def build_of(variables: Mapping[str, str]) -> str:
    """How a Python was built whose sysconfig has these `variables`.

    Debian's builds have both and say so nowhere: their packages take the flags out of sysconfig ("Don't propagate lto
    flags to the _sysconfigdata module", 3.8.0~b3-1). Such a build is known by the flag for the use of a profile, which
    configure sets for every GCC, whether it is used or not.
    """
    arguments = variables.get("CONFIG_ARGS", "")
    flags = " ".join(variables.get(key, "") for key in _FLAGS)
    has_profile = "--enable-optimizations" in arguments or "-fprofile-use" in flags
    has_lto = "-flto" in flags or ("--with-lto" in arguments and "--with-lto=no" not in arguments)
    if not has_profile and not has_lto and _is_silent(variables):
        return "of a distribution that does not say how it was built (Debian's have PGO and LTO)"
    parts = f"{'with' if has_profile else 'without'} PGO", f"{'with' if has_lto else 'without'} LTO"
    return f"built {' and '.join(parts)}"


def _is_silent(variables: Mapping[str, str]) -> bool:
    return bool(variables.get("PGO_PROF_GEN_FLAG")) and not variables.get("PGO_PROF_USE_FLAG")
