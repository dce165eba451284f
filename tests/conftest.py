"""Fixtures for every test."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import structlog

from tests.lab.fixtures import cell, lab, pytest_addoption, pytest_runtest_makereport, root, routed_lab
from userproxy.demo.bytecode import kept_bytecode

__all__ = ["cell", "lab", "pytest_addoption", "pytest_runtest_makereport", "root", "routed_lab"]


def pytest_configure(config: pytest.Config) -> None:
    """Have programs that tests start keep what Python compiles, in one folder for all processes of pytest."""
    stack = ExitStack()
    stack.enter_context(kept_bytecode())
    config.add_cleanup(stack.close)


@pytest.fixture(autouse=True)
def _logs_as_nobody_configured_them() -> Iterator[None]:
    """Commands that run inside this process configure the logs of all of it."""
    yield
    structlog.reset_defaults()
