"""Values and descriptors in packages, and out of them."""

import pytest
from msgspec import DecodeError, Raw

from userproxy.forwarding.handover.taking import HandoverError
from userproxy.forwarding.handover.values import ClientHandedOver, Ended, Item
from userproxy.processes.takeover.packages import packed, unpacked

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


def test_missing_descriptors_are_an_error_and_those_left_are_told() -> None:
    (package,) = packed(iter([(CLIENT, [7]), (CLIENT, [8])]))
    descriptors = [7]
    with pytest.raises(HandoverError, match="descriptors are missing"):
        list(unpacked(package.items, descriptors))


def test_what_is_no_list_of_values_is_an_error() -> None:
    with pytest.raises(DecodeError):
        list(unpacked(Raw(b"\x01"), []))
