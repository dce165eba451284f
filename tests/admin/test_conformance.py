"""The API is as its OpenAPI document says: tried with requests that hypothesis makes from that document.

schemathesis does the same, and more, where it is installed.
"""

import asyncio
import json
import operator
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.admin.pcapng.reader import read
from tests.admin.pcapng.test_recording import data, ended, opened
from tests.admin.planes import DNS, ONE, TWO, WEB, Served, connection, decision, served
from userproxy.admin.openapi import document
from userproxy.admin.parameters import ENDPOINT
from userproxy.admin.routes import ROUTES
from userproxy.model.capture import Leg, Segment, SegmentKind
from userproxy.model.faults import Fault, Latency
from userproxy.model.reports import Outcome
from userproxy.model.steering import Drain

DOCUMENT: Mapping[str, Any] = json.loads(document())


def value(schema: Mapping[str, Any]) -> st.SearchStrategy[str]:
    """Texts that a parameter's schema admits."""
    if "anyOf" in schema:
        return st.one_of(*(value(each) for each in schema["anyOf"]))
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "format" in schema:
        return st.ip_addresses(v=4 if schema["format"] == "ipv4" else 6).map(str)
    if schema.get("type") == "integer":
        return st.integers(schema["minimum"], schema["maximum"]).map(str)
    if schema.get("type") == "number":
        return st.floats(schema["minimum"], schema["maximum"]).map(repr)
    return st.from_regex(schema["pattern"].removesuffix("$") + r"\Z", alphabet=st.characters(codec="utf-8"))


CAPTURE_PATH = "/v1/capture"
lists_and_objects = sorted(DOCUMENT["paths"].keys() - {CAPTURE_PATH})


@st.composite
def requests(draw: st.DrawFn, paths: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """One of these paths of the document, with some of its parameters."""
    path = draw(st.sampled_from(paths))
    pairs: list[tuple[str, str]] = []
    for parameter in DOCUMENT["paths"][path]["get"]["parameters"]:
        schema = parameter["schema"]
        if schema.get("type") == "array":
            pairs += [(parameter["name"], text) for text in draw(st.lists(value(schema["items"]), max_size=2))]
        elif parameter["required"] or draw(st.booleans()):
            pairs.append((parameter["name"], draw(value(schema))))
    return path, pairs


_BOUNDS: Mapping[str, Callable[[Any, Any], bool]] = {
    "minimum": operator.ge,
    "exclusiveMinimum": operator.gt,
    "maximum": operator.le,
}


def fits(found: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value is as a schema says; knows the words that the document uses, and no others."""
    unknown = schema.keys() - {
        *("$ref", "anyOf", "enum", "type", "items", "properties", "required", "title", "description", "default"),
        *("additionalProperties", "discriminator", "contentEncoding"),
        *_BOUNDS,
    }
    assert not unknown, unknown
    if "$ref" in schema:
        return fits(found, DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return any(fits(found, each) for each in schema["anyOf"])
    if "enum" in schema:
        return found in schema["enum"]
    if any(not _BOUNDS[name](found, bound) for name, bound in schema.items() if name in _BOUNDS):
        return False
    kinds = {"string": str, "integer": int, "boolean": bool, "array": list, "object": dict, "null": type(None)}
    match schema.get("type"):
        case None:
            return True
        case "number":
            return isinstance(found, int | float) and not isinstance(found, bool)
        case "array":
            return isinstance(found, list) and all(fits(each, schema["items"]) for each in found)
        case "object" if "properties" in schema:
            properties = schema["properties"]
            return (
                isinstance(found, dict)
                and found.keys() <= properties.keys()
                and found.keys() >= set(schema["required"])
                and all(fits(each, properties[name]) for name, each in found.items())
            )
        case kind:
            return isinstance(found, kinds[str(kind)]) and not (kind == "integer" and isinstance(found, bool))


def expected(path: str) -> set[int]:
    """The statuses that a question may have which is as the document says."""
    return {int(status) for status in DOCUMENT["paths"][path]["get"]["responses"]} - {400, 503}


def answer(path: str, status: int) -> Mapping[str, Any]:
    """The schema of an answer."""
    content = DOCUMENT["paths"][path]["get"]["responses"][str(status)]["content"]
    schema: Mapping[str, Any] = content["application/json"]["schema"]
    return schema


@asynccontextmanager
async def full(folder: Path) -> AsyncIterator[Served]:
    """A server that has something of everything. Captures are told of two connections, and end."""
    async with served(folder) as api:
        api.control.add(WEB, ONE, TWO)
        api.control.add(DNS, TWO)
        api.data.open = [connection(number) for number in range(1, 5)]
        api.data.made = [decision(number) for number in range(1, 5)]
        api.drains.put(Drain(WEB.service, ONE, 5.0, 1.7e9, until=1e9))
        api.may_have_faults = True
        now = time.monotonic()
        api.faults.add(Fault(0, WEB.service, Latency(0.2), now, 1.7e9, now + 1e6))
        api.may_capture = True
        reset = Segment(1, 1_700_000_001.5, Leg.BACKEND, up=False, kind=SegmentKind.RST)
        passed = data(Leg.CLIENT, b"ask", up=True), reset, ended(Outcome.RESET, "reset by the endpoint")
        refused = opened(2, node=None, endpoint=None), ended(Outcome.REFUSED, "Connection refused", 2)
        api.data.passing = (opened(), *passed, *refused)
        yield api
        api.drains.shut_down()


async def ask(api: Served, path: str, pairs: list[tuple[str, str]], method: str = "GET") -> tuple[int, Any]:
    """Status and decoded body of one request."""
    status, body = await ask_bytes(api, path, pairs, method)
    return status, json.loads(body) if body else None


async def ask_bytes(api: Served, path: str, pairs: list[tuple[str, str]], method: str = "GET") -> tuple[int, bytes]:
    """Status and body of one request."""
    reader, writer = await asyncio.open_unix_connection(os.fspath(api.path))
    target = f"{path}?{urlencode(pairs)}" if pairs else path
    writer.write(f"{method} {target} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@given(st.lists(requests(lists_and_objects), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_what_the_document_admits_is_answered_as_it_says(
    tmp_path_factory: pytest.TempPathFactory, asked: list[tuple[str, list[tuple[str, str]]]]
) -> None:
    async def check() -> None:
        async with full(tmp_path_factory.mktemp("api")) as api:
            for path, pairs in asked:
                status, body = await ask(api, path, pairs)
                assert status in expected(path), (path, pairs, body)
                assert fits(body, answer(path, status)), (path, pairs, body)

    asyncio.run(check())


CAPTURED: Mapping[str, Any] = DOCUMENT["paths"][CAPTURE_PATH]["get"]["responses"]["200"]["content"]


@given(st.lists(requests([CAPTURE_PATH]), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_captures_that_the_document_admits_are_as_it_says(
    tmp_path_factory: pytest.TempPathFactory, asked: list[tuple[str, list[tuple[str, str]]]]
) -> None:
    async def check() -> None:
        async with full(tmp_path_factory.mktemp("api")) as api:
            for path, pairs in asked:
                status, body = await ask_bytes(api, path, pairs)
                assert status == 200, (pairs, body)
                if ("form", "pcapng") in pairs:
                    found = read(body)
                    assert (len(found.packets) > 0, len(found.statistics)) in ((True, 2), (False, 0), (True, 0))
                else:
                    lines = [json.loads(line) for line in body.splitlines()]
                    assert lines[0]["type"] == "CAPTURING"
                    for line in lines:
                        assert fits(line, CAPTURED["application/x-ndjson"]["x-line-schema"]), line

    asyncio.run(check())


@given(
    st.lists(
        st.tuples(requests(lists_and_objects), st.text(min_size=1, max_size=8), st.text(max_size=8)),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=40, deadline=None)
def test_any_other_request_is_answered_with_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, asked: list[tuple[tuple[str, list[tuple[str, str]]], str, str]]
) -> None:
    async def check() -> None:
        async with full(tmp_path_factory.mktemp("api")) as api:
            for (path, pairs), name, text in asked:
                known = [parameter["name"] for parameter in DOCUMENT["paths"][path]["get"]["parameters"]]
                if name not in (*known, "watch"):
                    status, body = await ask(api, path, [*pairs, (name, text)])
                    assert (status, list(body)) == (400, ["error"])
                if "limit" in known:
                    status, body = await ask(api, path, [("limit", text)])
                    assert status == (200 if re.fullmatch("0*[1-9][0-9]{0,5}|0*1000000", text) else 400)

    asyncio.run(check())


async def test_every_item_is_as_described_and_has_all_its_fields(tmp_path: Path) -> None:
    async with full(tmp_path) as api:
        for path in lists_and_objects:
            methods = DOCUMENT["paths"][path]
            required = {"namespace": "default", "service": "web", "client": "10.0.0.1"}
            asked = [
                (each["name"], required[each["name"]]) for each in methods["get"]["parameters"] if each["required"]
            ]
            status, body = await ask(api, path, asked)
            assert status in expected(path)
            assert fits(body, answer(path, status)), (path, body)
            if status == 200 and "items" in body:
                assert body["items"] or path == "/v1/problems"


async def test_the_document_has_every_route_and_nothing_else_can_be_asked(tmp_path: Path) -> None:
    assert DOCUMENT["paths"].keys() == {f"/v1/{route.path}" for route in ROUTES}
    async with full(tmp_path) as api:
        assert (await ask(api, "/v1/openapi.json", []))[1] == DOCUMENT
        for path in DOCUMENT["paths"]:
            for method in ("POST", "PUT", "DELETE", "PATCH"):
                if method.lower() not in DOCUMENT["paths"][path]:
                    assert (await ask(api, path, [], method))[0] == 405
            assert await ask(api, path, [], "HEAD") == ((await ask_bytes(api, path, []))[0], None)


@given(st.from_regex(ENDPOINT.schema["anyOf"][2]["pattern"].removesuffix("$") + r"\Z"))
def test_every_endpoint_that_the_pattern_admits_is_one(text: str) -> None:
    assert ENDPOINT.parse(text).port > 0


@pytest.mark.slow
@pytest.mark.asyncio(loop_factories=["uvloop"])  # on the one that is used; a loop makes no difference to this
async def test_schemathesis_finds_no_fault(tmp_path: Path) -> None:
    pytest.importorskip("schemathesis")
    async with full(tmp_path) as api, over_tcp(api.path) as port:
        command = [str(Path(sys.executable).with_name("schemathesis")), "run", "--max-examples", "20"]
        ended = await asyncio.to_thread(
            lambda: subprocess.run(
                [*command, f"http://127.0.0.1:{port}/v1/openapi.json"],
                cwd=tmp_path,
                check=False,
                capture_output=True,
                text=True,
            )
        )
    assert ended.returncode == 0, ended.stdout[-9000:] + ended.stderr[-2000:]
    selected = re.search(r"Operations: +([0-9]+) selected", ended.stdout)
    assert selected is not None, ended.stdout
    operations = sum(len(methods) for methods in DOCUMENT["paths"].values())
    assert int(selected[1]) == operations - 1, "it does not try the path of the document itself"


@asynccontextmanager
async def over_tcp(path: Path) -> AsyncIterator[int]:
    """A port that leads to a Unix socket, for programs that know only ports."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(os.fspath(path))
        await asyncio.gather(copy(reader, back), copy(there, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()
