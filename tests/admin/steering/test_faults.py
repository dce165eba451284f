"""Faults by the admin API."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.admin.planes import DNS, ONE, TWO, WEB, Served, served
from userproxy.admin.client import AdminError
from userproxy.model.faults import MOST_FAULTS, Direction, Latency, ResetAfterBytes

LATENCY = {"kind": "latency", "seconds": 0.2}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as found:
        found.control.add(WEB, ONE, TWO)
        found.control.add(DNS, TWO, port=53)
        found.may_have_faults = True
        yield found


async def put(api: Served, **body: Any) -> dict[str, Any]:
    given = {"service": "default/web", "effect": LATENCY, "for_seconds": 300, **body}
    return await asyncio.to_thread(api.client.post, "faults", given)


async def clear(api: Served, **parameters: Any) -> dict[str, Any]:
    return await asyncio.to_thread(lambda: api.client.delete("faults", **parameters))


async def test_a_fault_is_set_listed_and_cleared(api: Served) -> None:
    found = await put(api, endpoint=str(ONE), client="10.2.0.9/16", percent=25, port="80")
    assert found == {
        "id": 1,
        "service": "default/web",
        "ports": ["http"],
        "endpoint": "10.1.0.1:8080",
        "client": "10.2.0.0/16",
        "percent": 25.0,
        "effect": {"kind": "latency", "seconds": 0.2, "jitter_seconds": 0.0, "direction": "down"},
        "text": "fault 1: latency 200ms of 25 %",
        "since": found["since"],
        "until": found["until"],
    }
    assert found["since"] < found["until"]
    assert await api.items("faults") == [found]
    assert await api.items("faults", namespace="other") == []
    assert [(fault.id, fault.effect, fault.endpoint) for fault in api.steering.faults] == [(1, Latency(0.2), ONE)]
    assert (await put(api, effect={"kind": "reset-after-bytes", "bytes": 64_000}))["id"] == 2
    assert [fault.effect for fault in api.steering.faults] == [Latency(0.2), ResetAfterBytes(64_000)]
    assert await clear(api, id=1) == {"ended": 1}
    assert [fault.id for fault in api.steering.faults] == [2]
    assert await clear(api, all=True) == {"ended": 1}
    assert (await clear(api, all=True), api.steering.faults) == ({"ended": 0}, ())


async def test_every_kind_is_known(api: Served) -> None:
    kinds: list[dict[str, Any]] = [
        {"kind": "latency", "seconds": 0.2, "jitter_seconds": 0.05, "direction": "both"},
        {"kind": "refuse"},
        {"kind": "blackhole"},
        {"kind": "reset-after-bytes", "bytes": 1},
        {"kind": "reset-after-seconds", "seconds": 2},
        {"kind": "bandwidth", "bytes_per_second": 1_000_000.0},
    ]
    for kind in kinds:
        await put(api, effect=kind)
    await put(api, service="kube-system/dns", effect={"kind": "drop", "direction": "up"}, percent=10)
    assert [item["effect"]["kind"] for item in await api.all_items("faults", limit=2)] == [
        *(kind["kind"] for kind in kinds),
        "drop",
    ]
    assert api.steering.faults[0].effect == Latency(0.2, 0.05, Direction.BOTH)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"service": "default/nobody"}, "no Service default/nobody is served here"),
        ({"endpoint": "10.9.9.9:80"}, r"default/web has no endpoint 10\.9\.9\.9:80"),
        ({"port": "https"}, r"default/web has no port https, but http \(TCP\)"),
        ({"effect": {"kind": "drop"}}, "drop: that does not happen to TCP ports, which default/web has"),
        (
            {"service": "kube-system/dns", "effect": {"kind": "refuse"}},
            "refuse: that does not happen to UDP ports, which kube-system/dns has",
        ),
        ({"effect": {"kind": "flood"}}, r"invalid value 'flood' - at `\$\.effect\.kind`"),
        ({"effect": {"kind": "latency"}}, r"object missing required field `seconds` - at `\$\.effect`"),
        ({"effect": {"kind": "latency", "seconds": 61}}, r"expected `float` <= 60\.0 - at `\$\.effect\.seconds`"),
        ({"effect": {"kind": "refuse", "seconds": 61}}, "object contains unknown field `seconds`"),
        ({"for_seconds": None}, "object missing required field `for_seconds`"),
        ({"for_seconds": 86_401}, r"expected `float` <= 86400\.0"),
        ({"percent": 0}, r"expected `float` > 0\.0"),
        ({"percent": 101}, r"expected `float` <= 100\.0"),
        ({"client": "10.2.0.0/33"}, r"expected `str` matching regex .* - at `\$\.client`"),
    ],
)
async def test_what_cannot_be_is_one_sentence(api: Served, body: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AdminError, match=sentence):
        await put(api, **body)
    assert api.steering.faults == ()


async def test_without_the_flag_there_are_none(api: Served) -> None:
    api.may_have_faults = False
    sentence = "faults are not allowed here: start userproxy with --allow-faults$"
    with pytest.raises(AdminError, match=sentence):
        await put(api)
    with pytest.raises(AdminError, match=sentence):
        await clear(api, all=True)
    assert await api.items("faults") == []


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({}, "say which fault is to be cleared: its id, or all"),
        ({"id": 1, "all": True}, "say which fault is to be cleared: its id, or all"),
        ({"id": 7}, "there is no fault 7"),
    ],
)
async def test_what_cannot_be_cleared(api: Served, parameters: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AdminError, match=sentence):
        await clear(api, **parameters)


async def test_there_is_an_end_to_faults(api: Served) -> None:
    for _ in range(MOST_FAULTS):
        await put(api)
    with pytest.raises(AdminError, match="100 faults are in force already: clear some first"):
        await put(api)


async def test_one_that_is_over_is_listed_no_longer(api: Served) -> None:
    await put(api, for_seconds=1)
    async with asyncio.timeout(10):
        while await api.items("faults"):
            await asyncio.sleep(0.05)
    with pytest.raises(AdminError, match="there is no fault 1"):
        await clear(api, id=1)
