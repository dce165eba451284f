"""Both loops, for every test of this folder."""

from tests.forwarding.conftest import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]
