"""The tests of ``make check``: ``pytest -p tests.quick``.

Left out is what needs root, what takes seconds, and what repeats a test on asyncio's own loop as well as on uvloop's;
hypothesis tries a fifth of its examples. ``make test`` runs all of it.
"""

from typing import Final

import pytest
from hypothesis import settings

_NEEDS_ROOT: Final = {"root", "network", "lab", "shared_lab"}
_SECONDS: Final = ("e2e", "slow", "bugs")


def pytest_configure() -> None:
    settings.register_profile("quick", max_examples=20, deadline=None)
    settings.load_profile("quick")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if _takes_long(item) or _needs_root(item)]
    config.hook.pytest_deselected(items=left_out)
    chosen = set(items).difference(left_out)
    items[:] = [item for item in items if item in chosen]


def _takes_long(item: pytest.Item) -> bool:
    _, _, parameters = item.name.partition("[")
    return "asyncio" in parameters or any(item.get_closest_marker(mark) for mark in _SECONDS)


def _needs_root(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and not _NEEDS_ROOT.isdisjoint(item.fixturenames)
