"""One watch: chunks of its body become lines, and lines become events. Pure; requests are tested with watch."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.cluster.examples import SERVICE, Path, places, put
from userproxy.cluster.api_errors import ApiError, ExpiredError, RefusedError, UnreachableError
from userproxy.cluster.objects.reader import ObjectReader, Reading
from userproxy.cluster.objects.resources import services
from userproxy.cluster.objects.schema import RawService
from userproxy.cluster.watch_stream import Event, EventReader, EventStream, LineFramer, read_event


def _line(change: str, version: int | str, name: str = "wéb") -> bytes:
    item = {"metadata": {"name": name, "namespace": "shop", "resourceVersion": str(version)}}
    return json.dumps({"type": change, "object": item}, ensure_ascii=False).encode() + b"\n"


def _error(**status: object) -> bytes:
    return json.dumps({"type": "ERROR", "object": status}).encode() + b"\n"


def _feed(*chunks: bytes) -> tuple[list[Event], ApiError | None]:
    stream, events = EventStream(services(None), "10"), []
    for chunk in chunks:
        found, failure = stream.feed(chunk)
        events += found
        if failure is not None:
            return events, failure
    return events, None


@given(st.lists(st.integers(0, 400)))
def test_cuts_lose_nothing_and_repeat_nothing(cuts: list[int]) -> None:
    body = b"".join(_line("MODIFIED", version) for version in range(11, 15)) + _line("DELETED", 15)[:-20]
    ends = sorted({0, len(body), *(min(cut, len(body)) for cut in cuts)})
    events, failure = _feed(*(body[a:b] for a, b in pairwise(ends)))
    assert [event.version for event in events] == ["11", "12", "13", "14"]
    assert failure is None


def test_what_comes_twice_is_one_event() -> None:
    events, failure = _feed(*(_line("MODIFIED", version) for version in (10, 11, 11, 13, 13, 14)))
    assert [event.version for event in events] == ["11", "13", "14"]
    assert failure is None


@pytest.mark.parametrize("version", [9, 3, 12])
def test_versions_that_go_back_ask_for_a_list(version: int) -> None:
    """After a restore from a backup they begin again lower, and nothing that happens then may be hidden."""
    events, failure = _feed(*(_line("MODIFIED", version) for version in (11, 13, version, 14)))
    assert [event.version for event in events] == ["11", "13"]
    assert isinstance(failure, ExpiredError)


@pytest.mark.parametrize("version", ["x", "٣", "9" * 5000, "-1", "1e3"])
def test_a_version_that_is_no_number_is_compared_with_nothing(version: str) -> None:
    events, failure = _feed(_line("MODIFIED", 11), _line("MODIFIED", version), _line("MODIFIED", 12))
    assert [event.version for event in events] == ["11", version, "12"]
    assert failure is None


def test_what_is_nested_beyond_all_measure_is_garbled() -> None:
    line = b'{"type":"ADDED","object":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}\n"
    assert isinstance(_feed(line)[1], UnreachableError)


def test_an_object_without_a_version_is_an_event() -> None:
    events, failure = _feed(b'{"type":"ADDED","object":{"metadata":null}}\n{"type":"ADDED","object":7}\n')
    assert [event.version for event in events] == ["", ""]
    assert failure is None


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (_error(code=410, reason="Expired"), ExpiredError),
        (_error(reason="Gone"), ExpiredError),
        (_error(code=504, details={"causes": [{"reason": "ResourceVersionTooLarge"}]}), ExpiredError),
        (_error(code=504, details={"causes": [{"reason": "Other"}, {}]}), RefusedError),
        (_error(code=429), RefusedError),
        (_error(code="many"), RefusedError),
        (b"no json\n", UnreachableError),
        (b'{"type":"ADDED"}\n', UnreachableError),
    ],
    ids=["expired", "gone", "not reached", "timeout", "too many", "odd status", "garbage", "half an event"],
)
def test_what_ends_a_watch(line: bytes, wanted: type[ApiError]) -> None:
    events, failure = _feed(_line("ADDED", 11) + line + _line("ADDED", 12))
    assert [event.version for event in events] == ["11"]
    assert type(failure) is wanted


LINES = st.lists(st.text().map(lambda text: text.replace("\n", " ") + "é").map(str.encode), max_size=8)


@given(LINES, st.lists(st.integers(0, 200)), st.binary(max_size=20).map(lambda data: data.replace(b"\n", b"")))
def test_any_cut_gives_the_same_lines(lines: list[bytes], cuts: list[int], trailing: bytes) -> None:
    stream = b"".join(line + b"\n" for line in lines) + trailing
    ends = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    framer = LineFramer()
    assert [line for a, b in pairwise(ends) for line in framer.feed(stream[a:b])] == lines


def test_byte_by_byte() -> None:
    framer = LineFramer()
    stream = '{"a":"é"}\n\n \n{"b":1}\n{"c"'.encode()
    assert [line for byte in stream for line in framer.feed(bytes([byte]))] == ['{"a":"é"}'.encode(), b'{"b":1}']
    assert framer.feed(b":2}\n") == [b'{"c":2}']


def test_a_huge_line_in_small_pieces_is_joined_once() -> None:
    framer, piece = LineFramer(), b"x" * 1024
    for _ in range(16 * 1024):
        assert framer.feed(piece) == []
    (line,) = framer.feed(b"\n")
    assert len(line) == 16 * 1024 * 1024


def _reading_of(document: object) -> tuple[Event, Reading, Reading]:
    """An event, what it says of its object, and what the object says when it is read alone."""
    event = EventReader(services(None)).read(json.dumps({"type": "ADDED", "object": document}).encode())
    return event, read_event(ObjectReader(services(None)), event), ObjectReader(services(None)).read(event.data())


def test_an_object_is_read_together_with_its_line() -> None:
    event, reading, alone = _reading_of(put(SERVICE, ("metadata", "resourceVersion"), "17"))
    assert isinstance(event.shaped, RawService)
    assert (event.namespace, event.name, event.version) == ("shop", "web", "17")
    assert reading == alone
    assert reading.good


@pytest.mark.parametrize("wrong", [None, 7, "no", [], {}, [{}, 1]], ids=repr)
@pytest.mark.parametrize("path", list(places(SERVICE)), ids=str)
def test_an_object_that_is_odd_anywhere_is_read_as_if_it_came_alone(path: Path, wrong: object) -> None:
    with capture_logs() as lines:
        event, reading, alone = _reading_of(put(SERVICE, path, wrong))
    assert reading == alone
    assert lines[: len(lines) // 2] == lines[len(lines) // 2 :], "the same is said of it"
    if path[:1] != ("metadata",) and path:
        assert (event.namespace, event.name) == ("shop", "web")


@pytest.mark.parametrize("item", [{}, {"metadata": None}, {"metadata": {"resourceVersion": "12"}}])
def test_a_bookmark_is_no_object(item: dict[str, Any]) -> None:
    events, failure = _feed(json.dumps({"type": "BOOKMARK", "object": item}).encode() + b"\n")
    assert [(event.type, event.shaped) for event in events] == [("BOOKMARK", None)]
    assert failure is None
