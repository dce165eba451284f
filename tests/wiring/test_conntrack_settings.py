"""When conntrack settings are applied to the kernel."""

import asyncio

import pytest
from msgspec import structs

from userproxy.config import PortalMode, Settings
from userproxy.model import ConntrackSettings
from userproxy.wiring.conntrack_settings import ConntrackTask, set_up


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[ConntrackSettings]:
    """What would be written to the kernel, which is this machine's own."""
    written: list[ConntrackSettings] = []
    target = "userproxy.wiring.conntrack_settings.set_conntrack"
    monkeypatch.setattr(target, lambda settings, **_: written.append(settings))
    return written


OTHER = Settings(conntrack=ConntrackSettings(min=7))


async def test_settings_are_applied_at_the_start_and_when_they_change(applied: list[ConntrackSettings]) -> None:
    task = ConntrackTask(Settings(), translating=True)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        (running,) = (group.create_task(work, name=name) for name, work in task.tasks().items())
        await until(applied, 1)
        task.apply(structs.replace(Settings(), verbosity=3))
        task.apply(OTHER)
        await until(applied, 2)
        running.cancel()
    assert applied == [Settings().conntrack, OTHER.conntrack]


async def until(applied: list[ConntrackSettings], count: int) -> None:
    while len(applied) < count:
        await asyncio.sleep(0.001)


def test_without_translation_conntrack_is_left_alone(applied: list[ConntrackSettings]) -> None:
    assert ConntrackTask(Settings(), translating=False).tasks() == {}
    set_up(Settings(portals=PortalMode.NONE))
    assert applied == []
    set_up(Settings())
    assert applied == [Settings().conntrack]
