"""The table of what the admin API has."""

import re

import pytest

from tests.admin.planes import WEB
from userproxy.admin.routes import CAPTURE, LISTS, OBJECTS, ROUTES, ListRoute, Route, answer_types, parameters_of

PORT = f"{WEB.namespace}/{WEB.name}/{WEB.port}/{WEB.protocol}"
NEXT = {
    "services": (PORT, "default/web//UDP"),
    "endpoints": (f"{PORT}/10.1.0.1:8080", f"{PORT}/[fd00::1]:8080"),
    "portals": (f"{PORT}/0.0.0.0:30080", f"{PORT}/[::]:30080"),
    "connections": ("1", "123456789012345678"),
    "decisions": ("1700000001.25:7:timed-out", "1700000001.0:0:served"),
    "drains": ("default/web/10.1.0.1:8080", "default/web/[fd00::1]:8080"),
    "faults": ("12",),
    "problems": ("default/web: node port 30080 is taken", "änderbar"),
}
"""Keys as rows have them, which are where a list may go on."""

WRONG = {
    "services": ("default/web", "default/web/http/tcp", "Default/web/http/TCP"),
    "endpoints": (PORT, f"{PORT}/web:80"),
    "portals": (PORT,),
    "connections": ("", "x", "1234567890123456789"),
    "decisions": ("1700000001.25:7", "now:7:served"),
    "drains": ("default/web", "web/10.1.0.1:8080"),
    "faults": ("", "a"),
    "problems": ("two\nlines",),
}


@pytest.mark.parametrize("route", LISTS, ids=lambda route: route.path)
def test_a_list_goes_on_after_its_own_keys_and_after_nothing_else(route: ListRoute) -> None:
    (place,) = (each for each in parameters_of(route) if each.name == "after")
    for key in NEXT[route.path]:
        assert place.parse(key) == key
        assert re.search(place.schema["pattern"], key)
    for key in WRONG[route.path]:
        with pytest.raises(ValueError, match="is not the `next` of this list"):
            place.parse(key)


def test_each_path_stands_once() -> None:
    paths = [route.path for route in ROUTES]
    assert len(paths) == len(set(paths)) == len(LISTS) + len(OBJECTS) + 1
    assert paths[-1] == CAPTURE.path


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_parameters_stand_once_and_lists_are_limited_and_watched(route: Route) -> None:
    names = [each.name for each in parameters_of(route)]
    assert len(names) == len(set(names))
    assert ({"limit", "after", "watch"} <= set(names)) == isinstance(route, ListRoute)


@pytest.mark.parametrize("route", LISTS, ids=lambda route: route.path)
def test_a_page_and_a_change_are_of_the_lists_items(route: ListRoute) -> None:
    page, change = answer_types(route)
    assert page.__args__ == change.__args__ == (route.item,)
