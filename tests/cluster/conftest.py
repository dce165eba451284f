"""Every asynchronous test of this folder runs on both loops."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_asyncio
import trustme
import uvloop

from tests.cluster.minimal_api import MinimalApi, minimal_api
from tests.lab.apiserver import FakeApiServer


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest_asyncio.fixture
async def server() -> AsyncIterator[MinimalApi]:
    async with minimal_api() as running:
        yield running


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest_asyncio.fixture
async def tls_server(authority: trustme.CA) -> AsyncIterator[MinimalApi]:
    """One that asks for a client's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    async with minimal_api(context) as running:
        yield running


@pytest.fixture
def lab() -> Iterator[FakeApiServer]:
    with FakeApiServer() as running:
        yield running
