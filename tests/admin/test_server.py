"""The admin API over its socket, asked by the client that commands have."""

from pathlib import Path

import pytest

from tests.admin.planes import served
from userproxy.admin.client import AdminError


@pytest.mark.parametrize(
    ("route", "asked", "sentence"),
    [
        ("services", {"limit": 0}, "limit: '0' is not a number from 1 to 1000000"),
        ("services", {"colour": "red"}, "there is no parameter 'colour' here, only namespace, service, "),
        ("services", {"client": "10.0.0.1"}, "there is no parameter 'client' here"),
        ("services", {"service": "a/b"}, "service: 'a/b' is not the name of a Service, without its namespace"),
        ("version", {"limit": 1}, "there is no parameter 'limit' here, none at all"),
        ("connections", {"client": "10.0.0.300"}, "client: '10.0.0.300' is not an IP address"),
        (
            "connections",
            {"endpoint": "10.0.0.1:70000"},
            "endpoint: '10.0.0.1:70000' is not an endpoint such as 10.0.0.1",
        ),
        ("connections", {"state": "odd"}, "state: 'odd' is not one of dialing, held, open, half-closed, draining"),
        ("connections", {"after": "x"}, "after: 'x' is not the `next` of this list"),
        ("connections", {"limit": ["1", "2"]}, "limit is given twice"),
        ("nothing", {}, "there is no /v1/nothing here, but /v1/services, "),
    ],
)
async def test_bad_questions_are_answered_with_a_sentence(
    tmp_path: Path, route: str, asked: dict[str, str], sentence: str
) -> None:
    async with served(tmp_path) as api:
        with pytest.raises(AdminError) as caught:
            await api.get(route, **asked)
        assert str(caught.value).startswith(sentence)


async def test_objects(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        assert (await api.get("version"))["api"] == "v1"
        assert (await api.get("status"))["in_sync"] is True
        assert (await api.get("configuration"))["userproxy"] == {"at_stop": "remove"}
        assert "/v1/connections" in (await api.get("openapi.json"))["paths"]
