"""What tabs are sent."""

from typing import Any

from userproxy.dashboard.figures.frames import MOST_ROWS, Frame, Frames
from userproxy.dashboard.figures.history import History
from userproxy.dashboard.figures.looks import Detail, Look, ServicePort, Want
from userproxy.dashboard.figures.rates import Item

WEB = ServicePort("default", "web", "http", "TCP")


_HISTORY = {"opened": [1.0], "moved": [2.0], "failed": [1.0], "retried": [1.0]}


def row(key: str, active: int = 0) -> Item:
    return {
        "key": key,
        "active": active,
        **dict.fromkeys(("opened_rate", "up_rate", "down_rate", "failed_rate", "retried_rate"), 1.0),
    }


def test_the_first_frame_has_everything_and_the_next_what_has_changed() -> None:
    frames, history = Frames(Want()), History()
    services = {key: row(key) for key in ("a", "b", "c")}
    history.add(services.values())
    first = frames.look(Look(1, 5.0, services=services, status={"in_sync": True}, problems=[]), history)[-1]
    assert first["services"] == {"changed": list(services.values()), "gone": []}
    assert (first["status"], first["problems"], first["time"]) == ({"in_sync": True}, [], 5.0)
    assert first["history"] == {"all": history.of_all(), "services": dict.fromkeys(services, _HISTORY)}
    after = {"a": services["a"], "b": row("b", 3)}
    second = frames.look(Look(2, 6.0, services=after, status={"in_sync": True}, problems=[]), history)[-1]
    assert second == {
        "kind": "look",
        "number": 2,
        "time": 6.0,
        "trouble": "",
        "services": {"changed": [row("b", 3)], "gone": ["c"]},
    }


def test_of_the_past_only_what_there_was_is_sent() -> None:
    history = History()
    quiet = {"key": "b", **dict.fromkeys(("opened_rate", "up_rate", "down_rate", "failed_rate", "retried_rate"), 0.0)}
    busy = {**quiet, "key": "a", "opened_rate": 4.0}
    history.add([busy, quiet])
    frame = Frames(Want()).look(Look(1, 5.0, services={"a": busy, "b": quiet}), history)[-1]
    assert frame["history"]["services"] == {"a": {"opened": [4.0]}}


def test_trouble_leaves_the_tab_what_it_has() -> None:
    frames = Frames(Want())
    frames.look(Look(1, 5.0, services={"a": row("a")}), History())
    (lost,) = frames.look(Look(2, 5.0, trouble="nobody answers"), History())
    assert lost["trouble"] == "nobody answers"
    (third,) = frames.look(Look(3, 7.0, services={"a": row("a")}), History())
    assert third["services"] == {"changed": [], "gone": []}


def test_detail_and_connections_are_those_of_the_subject() -> None:
    frames = Frames(Want(WEB, connections=True))
    detail = Detail({"10.0.0.1:80": {"key": "10.0.0.1:80"}}, [{"portal": "p"}], [{"client": "c"}])
    connections = {WEB: {7: {"id": 7}}, None: {8: {"id": 8}}}
    (frame,) = frames.look(Look(1, services={}, details={WEB: detail}, connections=connections), History())
    assert frame["detail"] == {
        "key": WEB.key,
        "endpoints": [{"key": "10.0.0.1:80"}],
        "portals": [{"portal": "p"}],
        "paths": [{"client": "c"}],
    }
    assert frame["connections"] == {"changed": [{"id": 7}], "gone": []}
    (frame,) = frames.look(Look(2, services={}, details={WEB: detail}, connections={WEB: {}}), History())
    assert frame["connections"] == {"changed": [], "gone": [7]}


def test_thousands_of_rows_come_in_frames_of_some_before_the_one_of_the_look() -> None:
    services = {str(number): row(str(number)) for number in range(2 * MOST_ROWS + 1)}
    connections: dict[ServicePort | None, dict[int, Item]] = {
        None: {number: {"id": number} for number in range(MOST_ROWS + 1)}
    }
    history = History()
    history.add(services.values())
    frames = Frames(Want(connections=True))
    *before, last = frames.look(Look(1, 5.0, services=services, connections=connections), history)
    assert [frame["kind"] for frame in before] == ["rows"] * 5
    assert last["kind"] == "look"
    whole = [*before, last]
    assert sorted(_ids(whole, "services", "key")) == sorted(services)
    assert sorted(_ids(whole, "connections", "id")) == sorted(connections[None])
    known = [key for frame in before for key in frame.get("history", {})] + list(last["history"]["services"])
    assert sorted(known) == sorted(services)
    (second,) = frames.look(Look(2, 6.0, services={}, connections={None: {}}), history)
    assert len(second["services"]["gone"]) == len(services)
    assert len(second["connections"]["gone"]) == MOST_ROWS + 1


def _ids(frames: list[Frame], part: str, name: str) -> list[Any]:
    """Of the rows of frames, none of which has more than it may."""
    rows = [frame[part]["changed"] for frame in frames if part in frame]
    assert max(map(len, rows)) <= MOST_ROWS
    return [row[name] for some in rows for row in some]


def test_decisions_say_how_many_are_missing() -> None:
    assert Frames(Want()).decisions([{"verdict": "served"}], 3) == {
        "kind": "decisions",
        "items": [{"verdict": "served"}],
        "missing": 3,
    }
