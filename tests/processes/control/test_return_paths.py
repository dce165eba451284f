"""What owns the way back for clients' addresses stays until the next control process has its own."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.forwarding.conftest import eventually
from tests.processes.control.test_forwarding import all_ready, heard
from tests.processes.control.test_orphans import control, kill
from userproxy.forwarding.handover.values import PairsHandedOver
from userproxy.forwarding.return_pairs import PairState
from userproxy.model import DirectNetwork, IPFamily, Protocol, ReturnPath
from userproxy.processes.control.forwarding import ProcessForwarder
from userproxy.processes.control.return_paths import ReturnPaths
from userproxy.processes.messages import FollowReturnPath, Learned

TCP = (Protocol.TCP, IPFamily.IPV4)


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


async def test_where_the_next_one_needs_none_it_goes_with_who_uses_it(path: str, owners: list[Owner]) -> None:
    four, six, mine = owners
    async with control(path) as first:
        await own(first, four, IPFamily.IPV4)
        await own(first, six, IPFamily.IPV6)
        await kill(first, path)
        async with control(path) as second:
            second.keep(lambda asked: [mine.descriptor] if asked is IPFamily.IPV6 else [])
            second.follow_return_path(ReturnPath(IPFamily.IPV6))
            for family in IPFamily:
                second.close_unasked(family)
            await eventually(lambda: not (four.stands or six.stands), 30)
            assert mine.stands
            mine.die()
            assert mine.stands, "data processes have copies of what this process has"


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


PATH = ReturnPath(IPFamily.IPV4, networks=(DirectNetwork("10.244.1.0/24", "cni0"),))
ANSWERED = PairState("cni0", "there", "shop", True, None, "", None, 0.0, 10.0)
FOUND = PairsHandedOver(Protocol.TCP, IPFamily.IPV4, (ANSWERED,))


def learned_by(told: Told) -> list[Learned]:
    return [each for each in told.messages if isinstance(each, Learned)]


def test_one_that_begins_is_told_what_others_have_found_out_as_far_as_it_is_still_so() -> None:
    first, second, third = (Told() for _ in range(3))
    workers = [first]
    paths = ReturnPaths(lambda: workers)  # type: ignore[arg-type, return-value]
    paths.begins(first)  # type: ignore[arg-type]
    paths.follow(PATH)
    (followed,) = (each for each in first.messages if isinstance(each, FollowReturnPath))
    first.learned(Learned(followed.number, FOUND))
    paths.begins(second)  # type: ignore[arg-type]
    assert learned_by(second) == [Learned(followed.number, FOUND)]
    assert isinstance(second.messages[0], FollowReturnPath), "else it would take it for what another path has"
    paths.follow(ReturnPath(IPFamily.IPV4))
    paths.begins(third)  # type: ignore[arg-type]
    assert learned_by(third) == [], "the interface has other routes now"


async def test_replacements_know_what_was_found_out_and_the_next_control_process_is_told(path: str) -> None:
    async with control(path) as first:
        first.follow_return_path(PATH)
        await all_ready(first)
        one, other = first._pool.serving
        one.learned(Learned(first._return_paths._numbers[IPFamily.IPV4], FOUND))
        for victim in (one, other):
            os.kill(victim.pid, signal.SIGKILL)
            await eventually(lambda victim=victim: len(first._pool.serving) == 2 and victim not in first._pool.serving)  # type: ignore[misc]
        await heard(first)
        await kill(first, path)
        async with control(path) as second:
            second.follow_return_path(PATH)
            await eventually(lambda: second._return_paths._known.pairs[TCP].of("cni0", "there", "shop").answered)
