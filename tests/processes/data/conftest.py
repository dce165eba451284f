"""Both loops, and the servers of the forwarder's tests."""

from tests.forwarding.conftest import pytest_asyncio_loop_factories, serve

__all__ = ["pytest_asyncio_loop_factories", "serve"]
