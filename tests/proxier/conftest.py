"""Tests of HTTP ports run on both event loops, the others on asyncio's."""

import asyncio
from collections.abc import Callable

import pytest
import uvloop


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    loops = {"asyncio": asyncio.new_event_loop}
    return {"uvloop": uvloop.new_event_loop, **loops} if item.path.stem == "test_health_checks" else loops
