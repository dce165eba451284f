"""Values and descriptors in packages, and out of them."""

import asyncio
import time
from collections.abc import Iterator
from typing import cast

import pytest
from msgspec import DecodeError, Raw

from userproxy.forwarding.handover.giving import Given, Giver
from userproxy.forwarding.handover.taking import HandoverError
from userproxy.forwarding.handover.values import ClientHandedOver, Ended, Item
from userproxy.pace import SLICE_SECONDS, Pace
from userproxy.processes.takeover.packages import LocalPackages, packed, packed_in_slices, unpacked

CLIENT = ClientHandedOver(1, None, ("10.0.0.1", 4711))


def test_values_come_out_as_they_went_in_with_their_descriptors() -> None:
    given: list[tuple[Item, list[int]]] = [(CLIENT, [7]), (Ended((1, 2)), []), (CLIENT, [8])]
    (package,) = packed(iter(given))
    descriptors = list(package.descriptors)
    assert list(unpacked(package.items, descriptors)) == given
    assert descriptors == []


def test_many_are_several_packages_and_none_is_one() -> None:
    packages = list(packed((CLIENT, [number]) for number in range(300)))
    assert [len(package.descriptors) for package in packages] == [128, 128, 44]
    (empty,) = packed(iter(()))
    assert list(unpacked(empty.items, [])) == []


async def test_descriptors_are_passed_on_in_the_turn_of_the_loop_in_which_they_were_looked_up() -> None:
    """A turn later their numbers may be other sockets'."""
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(turn)

    def given() -> Iterator[Given | None]:
        for number in range(2000):
            yield (CLIENT, [turns]) if number % 3 else None

    asyncio.get_running_loop().call_soon(turn)
    packages = []
    async for package in packed_in_slices(given(), Pace()):
        assert set(package.descriptors) == {turns}
        packages.append(package)
    assert turns > 1
    assert sum(len(package.descriptors) for package in packages) == 1333
    assert len(packages) < 1333, "what comes in one slice is one package"
    for package in packages:
        descriptors = list(package.descriptors)
        assert [item for item, _ in unpacked(package.items, descriptors)] == [CLIENT] * len(package.descriptors)


async def test_no_package_is_made_of_nothing_and_none_is_greater_than_the_channel_takes_at_once() -> None:
    assert [package async for package in packed_in_slices(iter([None] * 100), Pace())] == []
    given: list[Given | None] = [(CLIENT, list(range(6)))] * 100
    sizes = [len(package.descriptors) async for package in packed_in_slices(iter(given), Pace())]
    assert sum(sizes) == 600
    assert max(sizes) <= 64


class Slow:
    """Gives values, each of which takes more than a slice, which is ten times as long on a busy machine."""

    def beginning(self) -> Iterator[Given | None]:
        for number in range(10):
            end = time.perf_counter() + 11 * SLICE_SECONDS
            while time.perf_counter() < end:
                pass
            yield CLIENT, [number]

    changes = beginning


async def test_a_data_plane_is_described_with_pauses_and_what_has_changed_since_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", note)
    packages = LocalPackages(cast(Giver, Slow()))
    assert len([each async for each in packages.first()]) == 10
    assert slept == [0.001] * 10
    slept.clear()
    assert len([each async for each in packages.changed()]) == 10
    assert slept == [0] * 10


def test_missing_descriptors_are_an_error_and_those_left_are_told() -> None:
    (package,) = packed(iter([(CLIENT, [7]), (CLIENT, [8])]))
    descriptors = [7]
    with pytest.raises(HandoverError, match="descriptors are missing"):
        list(unpacked(package.items, descriptors))


def test_what_is_no_list_of_values_is_an_error() -> None:
    with pytest.raises(DecodeError):
        list(unpacked(Raw(b"\x01"), []))
