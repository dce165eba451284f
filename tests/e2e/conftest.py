"""Fixtures of the end-to-end tests alone, and the matrix of drivers and wirings that some of them run in."""

import pytest

from tests.e2e.matrix import SUITES, chosen_cells, commit, drawn, exempted
from tests.lab.fixtures import shared_lab

__all__ = ["shared_lab"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    name = metafunc.module.__name__.rpartition(".")[2]
    if name in SUITES and "cell" in metafunc.fixturenames:
        cells = chosen_cells(metafunc.config.getoption("matrix"))
        metafunc.parametrize("cell", cells, ids=str, indirect=True, scope="module")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    impossible = exempted(items)
    items[:] = [item for item in items if item not in impossible]
    config.hook.pytest_deselected(items=impossible)
    if config.getoption("matrix") == "sample":
        items[:] = drawn(items, config.getoption("matrix_seed") or commit())
