"""What owns the way back for clients' addresses stays until the next control process has its own."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.forwarding.conftest import eventually
from tests.processes.control.test_forwarding import heard
from tests.processes.control.test_orphans import control, kill
from userproxy.forwarding.handover.values import PairsHandedOver
from userproxy.model import IPFamily, Protocol, ReturnPath
from userproxy.processes.control.forwarding import ProcessForwarder
from userproxy.processes.control.return_paths import ReturnPaths
from userproxy.processes.messages import FollowReturnPath, Learned


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "admin.sock")


class Owner:
    """Stands for a socket that tables go with: it says whether any process has a copy of it."""

    def __init__(self) -> None:
        self._seen, self.descriptor = os.pipe()
        os.set_blocking(self._seen, False)

    def die(self) -> None:
        """Close this process's copy."""
        os.close(self.descriptor)

    @property
    def stands(self) -> bool:
        try:
            return bool(os.read(self._seen, 1))
        except BlockingIOError:
            return True

    def close(self) -> None:
        os.close(self._seen)


@pytest.fixture
def owners() -> Iterator[list[Owner]]:
    made = [Owner() for _ in range(3)]
    yield made
    for each in made:
        each.close()


async def own(forwarder: ProcessForwarder, owner: Owner, family: IPFamily) -> None:
    """What `owner` owns stands, and is of this process alone from here on but for its data processes."""
    forwarder.keep(lambda asked: [owner.descriptor] if asked is family else [])
    forwarder.follow_return_path(ReturnPath(family))
    await heard(forwarder)
    owner.die()
    forwarder.keep(lambda _: [])


async def test_what_one_that_was_killed_had_stands_until_the_next_one_has_as_much(
    path: str, owners: list[Owner]
) -> None:
    four, six, next_four = owners
    async with control(path) as first:
        await own(first, four, IPFamily.IPV4)
        await own(first, six, IPFamily.IPV6)
        await kill(first, path)
        async with control(path) as second:
            await heard(second)
            assert four.stands
            second.follow_return_path(ReturnPath(IPFamily.IPV4, "it is not there yet"))
            await heard(second)
            assert four.stands
            await own(second, next_four, IPFamily.IPV4)
            await eventually(lambda: not four.stands)
            assert (six.stands, next_four.stands) == (True, True), "each family has its own"
            second.outlive(us=False)
            await eventually(lambda: not six.stands and not next_four.stands)


async def test_nothing_is_held_after_a_stop_has_begun(path: str, owners: list[Owner]) -> None:
    owner, late, _ = owners
    async with control(path, 1) as forwarder:
        await own(forwarder, owner, IPFamily.IPV4)
        assert owner.stands
        forwarder.outlive(us=False)
        await eventually(lambda: not owner.stands)
        await own(forwarder, late, IPFamily.IPV4)
        assert not late.stands


class Told:
    """Stands for a data process."""

    def __init__(self) -> None:
        self.messages: list[object] = []
        self.learned: Callable[[Learned], None] = lambda _: None

    def send(self, message: object, _descriptors: Sequence[int] = ()) -> None:
        self.messages.append(message)


def test_what_one_finds_out_is_told_to_the_others_unless_the_path_is_another_one_by_then() -> None:
    first, *others = workers = [Told() for _ in range(3)]
    paths = ReturnPaths(lambda: workers)  # type: ignore[arg-type, return-value]
    for each in workers:
        paths.begins(each)  # type: ignore[arg-type]
    paths.follow(ReturnPath(IPFamily.IPV4))
    paths.follow(ReturnPath(IPFamily.IPV6))
    (four, six) = (each for each in first.messages if isinstance(each, FollowReturnPath))
    four_learned, six_learned = (
        Learned(each.number, PairsHandedOver(Protocol.TCP, each.path.family, ())) for each in (four, six)
    )
    first.learned(four_learned)
    assert [each.messages[-1] for each in others] == [four_learned] * 2
    assert four_learned not in first.messages
    paths.follow(ReturnPath(IPFamily.IPV4, "it is gone"))
    first.learned(four_learned)
    first.learned(six_learned)
    for each in others:
        assert each.messages[-1] == six_learned, "the other family's path is the same"
        assert each.messages.count(four_learned) == 1
