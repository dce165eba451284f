"""Fixtures for every test."""

from collections.abc import Iterator

import pytest
import structlog

from tests.lab.fixtures import cell, lab, pytest_addoption, pytest_runtest_makereport, root, routed_lab

__all__ = ["cell", "lab", "pytest_addoption", "pytest_runtest_makereport", "root", "routed_lab"]


@pytest.fixture(autouse=True)
def _logs_as_nobody_configured_them() -> Iterator[None]:
    """Commands that run inside this process configure the logs of all of it."""
    yield
    structlog.reset_defaults()
