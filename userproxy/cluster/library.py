"""kubernetes_asyncio without its models and API classes.

Importing any part of its client imports 900 generated modules with all that Kubernetes knows: 36 MB and a third of a
second of CPU, on every node, for classes that are never used here.
"""

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

_CLIENT: Final = "kubernetes_asyncio.client"
_PACKAGES: Final = (f"{_CLIENT}.api", f"{_CLIENT}.models")


def import_client() -> None:
    """Import the library's client without its models and API classes, in whose place it gets empty ones.

    Nothing happens where the client has been imported already. The models and API modules can still be imported for
    themselves afterwards.
    """
    if _CLIENT not in sys.modules:
        with _left_out():
            importlib.import_module(_CLIENT)


@contextmanager
def _left_out() -> Iterator[None]:
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in finder.found:
            sys.modules.pop(name, None)


class _Finder(MetaPathFinder, Loader):
    """Finds every module of the packages, and each has every class that is asked for."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 -- the import system's signature
        target: ModuleType | None = None,  # noqa: ARG002 -- as above
    ) -> ModuleSpec | None:
        if not any(fullname == package or fullname.startswith(f"{package}.") for package in _PACKAGES):
            return None
        self.found.append(fullname)
        return ModuleSpec(fullname, self, is_package=fullname in _PACKAGES)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:  # noqa: ARG002 -- as above
        return None

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__getattr__"] = _placeholder


class _LeftOut:
    """In place of every class that is left out."""


def _placeholder(name: str) -> type[_LeftOut]:
    if name.startswith("__"):
        raise AttributeError(name)
    return _LeftOut
