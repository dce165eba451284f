"""Requests that change something, as raw as they come."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.admin.planes import ONE, WEB, Served, served
from userproxy.admin.routes import ROUTES
from userproxy.admin.steering.routes import WRITES
from userproxy.admin.steering.writing import MOST_BYTES

TOO_DEEP = (
    "the body is not as it should be: it is nested too deeply"
    if sys.version_info < (3, 14)
    else "the body is no JSON: input data was truncated"
)
"""From Python 3.14 on the size of the stack is minded, not the number of calls: such a body is read to its end."""

GOOD = json.dumps({"service": "default/web", "endpoint": str(ONE)}).encode()


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as found:
        found.control.add(WEB, ONE)
        yield found


async def ask(api: Served, method: str, target: str, body: bytes = b"") -> tuple[int, str, str]:
    """Status, head and error or body."""
    reader, writer = await asyncio.open_unix_connection(os.fspath(api.path))
    length = f"Content-Length: {len(body)}\r\n"
    writer.write(f"{method} {target} HTTP/1.0\r\nHost: x\r\n{length}\r\n".encode() + body)
    head, _, text = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    found = json.loads(text) if text else {}
    return int(head.split()[1]), head, found.get("error", text)


async def test_a_good_one_is_done(api: Served) -> None:
    assert (await ask(api, "POST", "/v1/drains", GOOD))[0] == 200
    assert len(api.drains.all()) == 1


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "the body is no JSON: input data was truncated"),
        (b"{", "the body is no JSON: input data was truncated"),
        (b"\xff", "the body is no JSON: JSON is malformed: invalid character (byte 0)"),
        (b"[]", "the body is not as it should be: expected `object`, got `array`"),
        (b"{}", "the body is not as it should be: object missing required field `service`"),
        (b" " * MOST_BYTES + GOOD, f"the body has more than {MOST_BYTES} bytes"),
        (b"[" * 20_000, TOO_DEEP),
    ],
    ids=["nothing", "half", "bytes", "list", "empty", "long", "deep"],
)
async def test_a_bad_body_is_one_sentence(api: Served, body: bytes, sentence: str) -> None:
    assert (await ask(api, "POST", "/v1/drains", body))[::2] == (400, sentence)
    assert api.drains.all() == []


async def test_parameters_and_bodies_belong_to_those_who_take_them(api: Served) -> None:
    assert (await ask(api, "POST", "/v1/drains?namespace=default", GOOD))[::2] == (
        400,
        "there is no parameter 'namespace' here, none at all",
    )
    assert (await ask(api, "DELETE", "/v1/connections?client=10.0.0.1", GOOD))[::2] == (
        400,
        "this request takes no body",
    )
    assert api.steering.closed == []


async def test_reading_changes_nothing_and_other_methods_are_refused(api: Served) -> None:
    await ask(api, "POST", "/v1/drains", GOOD)
    before = api.drains.state()
    for route in ROUTES:
        if route.path != "capture":
            for method in ("GET", "HEAD"):
                await ask(api, method, f"/v1/{route.path}?namespace=default&service=web&client=10.0.0.1", GOOD)
        taken = {write.method for write in WRITES if write.path == route.path}
        for method in {"POST", "PUT", "DELETE", "PATCH"} - taken:
            status, head, error = await ask(api, method, f"/v1/{route.path}")
            assert (status, route.path in error) == (405, True)
            assert f"Allow: {', '.join(['GET', 'HEAD', *_in_order(taken)])}" in head
    assert (api.drains.state(), api.steering.closed) == (before, [])


def _in_order(methods: set[str]) -> list[str]:
    return [each for each in ("POST", "DELETE") if each in methods]
