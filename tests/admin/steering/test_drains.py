"""Drains and closed connections by the admin API."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.admin.planes import ONE, TWO, WEB, Served, served
from userproxy.admin.client import AdminError
from userproxy.admin.rows import Planes
from userproxy.admin.steering.drains import undrain
from userproxy.admin.steering.refusals import RefusedError
from userproxy.model.cluster import Protocol, ServiceName
from userproxy.model.reports import Query
from userproxy.proxier.drains.table import MOST_DRAINS


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as found:
        found.control.add(WEB, ONE, TWO)
        yield found
        found.drains.shut_down()


async def drain(api: Served, **body: Any) -> dict[str, Any]:
    given = {"service": "default/web", "endpoint": str(ONE), **body}
    return await asyncio.to_thread(api.client.post, "drains", given)


async def delete(api: Served, route: str, **parameters: Any) -> dict[str, Any]:
    return await asyncio.to_thread(lambda: api.client.delete(route, **parameters))


async def test_a_drain_is_begun_listed_and_ended(api: Served) -> None:
    begun = await drain(api, for_seconds=600, close_after_seconds=30)
    assert (begun["service"], begun["endpoint"]) == ("default/web", "10.1.0.1:8080")
    assert begun["since"] < begun["closes_at"] < begun["until"]
    assert await api.items("drains") == [begun]
    assert list(api.drains.of(ServiceName("default", "web"))) == [ONE]
    for other in ({"namespace": "other"}, {"service": "api"}, {"endpoint": str(TWO)}):
        assert await api.items("drains", **other) == []
    assert await api.items("drains", namespace="default", service="web", endpoint="10.1.0.1") == [begun]
    ended = await delete(api, "drains", namespace="default", service="web", endpoint=str(ONE))
    assert (ended, await api.items("drains")) == ({"ended": 1}, [])


async def test_without_a_time_it_lasts_and_closes_nothing(api: Served) -> None:
    assert {"until": None, "closes_at": None}.items() <= (await drain(api)).items()
    await drain(api, endpoint=str(TWO))
    assert len(await api.items("drains", limit=1)) == 1
    assert len(await api.all_items("drains", limit=1)) == 2
    assert await delete(api, "drains", namespace="default", service="web") == {"ended": 2}


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"service": "default/nobody"}, "no Service default/nobody is served here"),
        ({"endpoint": "10.9.9.9:80"}, "default/web has no endpoint 10.9.9.9:80, but 10.1.0.1:8080, 10.1.0.2:8080"),
        ({"for_seconds": 10, "close_after_seconds": 10}, "close_after_seconds: 10 is not less than for_seconds"),
        ({"service": "web"}, r"the body is not as it should be: expected `str` matching regex .* - at `\$.service`"),
        ({"endpoint": "10.1.0.1"}, r"expected `str` matching regex .* - at `\$.endpoint`"),
        ({"for_seconds": 0}, r"expected `float` >= 1.0 - at `\$.for_seconds`"),
        ({"for_seconds": 1e9}, r"expected `float` <= 604800.0 - at `\$.for_seconds`"),
        ({"close_after_seconds": "30s"}, r"expected `float \| null`, got `str` - at `\$.close_after_seconds`"),
        ({"forever": True}, "object contains unknown field `forever`"),
    ],
)
async def test_what_cannot_be_drained_is_one_sentence(api: Served, body: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AdminError, match=sentence):
        await drain(api, **body)
    assert api.drains.all() == []


async def test_an_endpoint_may_be_asked_for_in_a_long_list(api: Served) -> None:
    api.control.add(WEB, *(ONE.__class__("10.1.0.1", port) for port in range(1, 100)))
    with pytest.raises(AdminError, match=r"10\.1\.0\.1:10 and 89 more$"):
        await drain(api, endpoint="10.1.0.1:100")


async def test_there_is_an_end_to_drains(api: Served) -> None:
    for number in range(MOST_DRAINS):
        name = WEB.__class__("default", f"web-{number}", "", Protocol.TCP)
        api.control.add(name, ONE)
        await drain(api, service=f"default/web-{number}") if number < 3 else _put(api, number)
    with pytest.raises(AdminError, match="1000 endpoints are drained already: end some drains first"):
        await drain(api)


def _put(api: Served, number: int) -> None:
    from userproxy.model.steering import Drain

    api.drains.put(Drain(ServiceName("default", f"web-{number}"), ONE, 0.0, 0.0))


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"namespace": "default", "service": "web"}, "no endpoint of default/web is drained"),
        (
            {"namespace": "default", "service": "web", "endpoint": str(TWO)},
            "no endpoint 10.1.0.2:8080 of default/web is drained",
        ),
        (
            {"namespace": "default", "service": "web", "endpoint": "10.1.0.2"},
            "no endpoint 10.1.0.2 of default/web is drained",
        ),
        ({"namespace": "default"}, "service is missing"),
        ({"namespace": "default", "service": "web", "client": "10.0.0.1"}, "there is no parameter 'client' here"),
    ],
)
async def test_what_is_not_drained_cannot_be_ended(api: Served, parameters: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AdminError, match=sentence):
        await delete(api, "drains", **parameters)


async def test_connections_are_closed_by_what_is_given(api: Served) -> None:
    closed = await delete(api, "connections", client="10.2.0.9", endpoint="10.1.0.1:8080", protocol="TCP")
    assert closed == {"closed": 1}
    await delete(api, "connections", namespace="default", service="web")
    await delete(api, "connections", id=str(7 * 10**12 + 1))
    assert [query for query, _ in api.steering.closed] == [
        Query(client="10.2.0.9", endpoint=ONE, protocol=Protocol.TCP),
        Query(namespace="default", service="web"),
        Query(connection=7 * 10**12 + 1),
    ]
    assert {reason for _, reason in api.steering.closed} == {"closed on request"}


@pytest.mark.parametrize("parameters", [{}, {"namespace": "default"}, {"protocol": "TCP"}])
async def test_somebody_must_be_meant(api: Served, parameters: dict[str, Any]) -> None:
    with pytest.raises(AdminError, match="say which connections are to be closed: by id, client, endpoint or service"):
        await delete(api, "connections", **parameters)
    assert api.steering.closed == []


@pytest.mark.parametrize("number", ["0", "-1", "x", "1" * 19])
async def test_an_id_is_a_number(api: Served, number: str) -> None:
    with pytest.raises(AdminError, match=f"id: '{number}' is not the number of a connection"):
        await delete(api, "connections", id=number)
    assert api.steering.closed == []


async def test_without_controls_nothing_can_be_changed(api: Served) -> None:
    from userproxy.admin.parameters import Filter

    with pytest.raises(RefusedError, match="nothing can be changed here"):
        await undrain(Planes(api.control, api.data), Filter("default", "web"))
