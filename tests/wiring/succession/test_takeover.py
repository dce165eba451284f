"""When a predecessor is asked, and when what nobody has asked for is closed."""

import asyncio
import errno
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
from structlog.testing import capture_logs

from tests.forwarding.conftest import LOOPBACK, NAME, eventually
from tests.forwarding.handover.conftest import a_forwarder
from tests.processes.takeover.conftest import Beside
from userproxy.forwarding.forwarder import Forwarder
from userproxy.forwarding.handover.values import release
from userproxy.model import Endpoint, IPFamily, Snapshot, Verdict
from userproxy.processes.channel import packet
from userproxy.processes.control.forwarding import ProcessForwarder
from userproxy.processes.takeover.deference import Deference
from userproxy.processes.takeover.messages import PROTOCOL, Ask
from userproxy.processes.takeover.successor import BACKLOG_SECONDS, Heir, RefusedError, Successor
from userproxy.proxier.family.proxy import FamilyProxy
from userproxy.sockets import NamedSockets
from userproxy.wiring.succession import takeover
from userproxy.wiring.succession.takeover import Takeover, TakeOverError, takeover_path


class Predecessor:
    """Listens for successors, and hangs up on them."""

    def __init__(self, path: Path) -> None:
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listening.bind(str(takeover_path(path)))
        self._listening.listen()
        self._listening.setblocking(False)

    def is_asked(self) -> bool:
        try:
            self._listening.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        self._listening.close()


class Starting(ProcessForwarder):
    """Data processes that are not there yet when it is asked for the first time."""

    def __init__(self, predecessor: Predecessor, happened: list[str]) -> None:
        self._predecessor = predecessor
        self._happened = happened

    async def ready(self) -> None:
        self._happened.append("asked" if self._predecessor.is_asked() else "ready")

    def start(self) -> None:
        if "ready" not in self._happened:
            self._happened.append("started together")

    @property
    def process_ids(self) -> list[int]:
        return [1, 2]


class Polite(Deference):
    def __init__(self, happened: list[str]) -> None:
        super().__init__()
        self._happened = happened

    def end(self, children: Iterable[int] = ()) -> None:
        self._happened.append(f"others are no longer let go first, nor by {children}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "admin.sock"


@pytest.fixture
def predecessor(path: Path) -> Iterator[Predecessor]:
    with closing(Predecessor(path)) as made:
        yield made


async def test_a_predecessor_is_asked_once_data_processes_run_and_no_longer_leave_it_the_processor(
    path: Path, predecessor: Predecessor
) -> None:
    happened: list[str] = []
    starting = Starting(predecessor, happened)
    takeover = Takeover(
        path, starting, [], NamedSockets(), lambda: "", lambda *_: None, wanted=True, deference=Polite(happened)
    )
    with capture_logs() as logs:
        await takeover.until_turn()
    assert happened == ["ready", "others are no longer let go first, nor by [1, 2]", "asked"]
    assert [each["event"] for each in logs] == ["Nothing is taken over: starting as usual"]
    assert not takeover.is_pending


async def test_data_processes_are_started_together_where_nobody_serves(path: Path, predecessor: Predecessor) -> None:
    happened: list[str] = []
    starting = Starting(predecessor, happened)
    takeover_path(path).unlink()
    await Takeover(
        path, starting, [], NamedSockets(), lambda: "", lambda *_: None, wanted=True, deference=Polite(happened)
    ).until_turn()
    assert happened[1:] == ["started together"]


class Late(Deference):
    """Whose end is when a predecessor comes."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        super().__init__()
        self._path = path
        self._stack = stack

    def end(self, _children: Iterable[int] = ()) -> None:
        self._stack.enter_context(closing(Predecessor(self._path)))


async def test_data_processes_are_started_together_where_a_predecessor_waits_for_them(
    path: Path, predecessor: Predecessor
) -> None:
    """One that has taken over itself just now; it is asked within ten seconds."""
    happened: list[str] = []
    takeover_path(path).unlink()
    with ExitStack() as stack:
        deference = Late(path, stack)
        starting = Starting(predecessor, happened)
        await Takeover(
            path, starting, [], NamedSockets(), lambda: "", lambda *_: None, wanted=True, deference=deference
        ).until_turn()
    assert happened == ["started together", "ready"]


class Failing(ProcessForwarder):
    """Whose data processes cannot be started."""

    def __init__(self) -> None:
        self.attempts = 0

    async def ready(self) -> None:
        self.attempts += 1
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


async def test_data_processes_that_cannot_be_started_end_the_take_over_with_a_sentence(
    path: Path, predecessor: Predecessor
) -> None:
    forwarder = Failing()
    failing = Takeover(path, forwarder, [], NamedSockets(), lambda: "", lambda *_: None, wanted=True)
    found = await asyncio.gather(failing.until_turn(), failing.until_turn(), return_exceptions=True)
    for error in found:
        with pytest.raises(TakeOverError, match=r"^--takeover: data processes cannot be started: Resource temporarily"):
            raise error or AssertionError
    assert not predecessor.is_asked()
    assert forwarder.attempts == 1, "the other family tries nothing of it again while this process ends"


class Refused(Successor):
    """One that is refused, and remembers for how long it would have gone first."""

    found: ClassVar[list[float]] = []

    def __init__(self, connection: socket.socket, heir: Heir) -> None:
        self._connection = connection
        self.found.append(heir.backlog_seconds)

    async def take_over(self) -> bool:
        self._connection.close()
        raise RefusedError("not today")


@pytest.mark.parametrize("serves_itself", [True, False])
async def test_who_serves_goes_first_for_a_moment_and_a_control_process_does_not(
    path: Path, predecessor: Predecessor, monkeypatch: pytest.MonkeyPatch, serves_itself: bool
) -> None:
    monkeypatch.setattr(takeover, "Successor", Refused)
    Refused.found.clear()
    forwarder = a_forwarder() if serves_itself else Starting(predecessor, [])
    await Takeover(path, forwarder, [], NamedSockets(), lambda: "", lambda *_: None, wanted=True).until_turn()
    assert Refused.found == [BACKLOG_SECONDS if serves_itself else 0.0]


class TakingIn:
    """A family that is told of everything in a moment."""

    family = IPFamily.IPV4

    def __init__(self, predecessor: Predecessor, happened: list[str]) -> None:
        self._predecessor = predecessor
        self._happened = happened

    async def until_taken_in(self) -> None:
        await asyncio.sleep(0)
        self._happened.append("asked" if self._predecessor.is_asked() else "taken in")


async def test_a_predecessor_is_asked_once_all_families_have_taken_in_what_there_is(
    path: Path, predecessor: Predecessor
) -> None:
    happened: list[str] = []
    families = [cast(FamilyProxy, TakingIn(predecessor, happened)) for _ in range(2)]
    starting = Starting(predecessor, happened)
    takeover = Takeover(
        path, starting, families, NamedSockets(), lambda: "", lambda *_: None, wanted=True, deference=Polite(happened)
    )
    await takeover.until_turn()
    assert happened[:3] == ["taken in", "taken in", "ready"]
    assert happened[-1] == "asked"


SETUP = "as in the tests"


class Family:
    """One that serves as far as successors can tell, and whose rules have not been written since the take-over."""

    family = IPFamily.IPV4
    settled = True

    def __init__(self) -> None:
        self.holdings = self
        self.is_left = False
        self.has_released = False

    def sockets(self) -> dict[str, int]:
        return {}

    def release_unasked(self) -> None:
        self.has_released = True

    def leave_to_successor(self) -> None:
        self.is_left = True

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        yield


class Overdue:
    """A minute after it has taken a listener over, which nobody has asked for since."""

    def __init__(self, path: Path) -> None:
        self.forwarder = a_forwarder()
        self.family = Family()
        self.port = self.forwarder.open(NAME)
        self.forwarder.update(Snapshot(NAME, Verdict.SERVE, (Endpoint(LOOPBACK, 1),)))
        families = [cast(FamilyProxy, self.family)]
        self.takeover = Takeover(
            path, self.forwarder, families, NamedSockets(), lambda: SETUP, lambda *_: None, wanted=False
        )
        self.takeover._serves()

    def is_over(self) -> None:
        """Those that have not asked by now have no use for what there is."""
        self.takeover._all_settled()

    def has_it(self) -> bool:
        """Whether the listener is open here; its socket closes a turn of the loop after that."""
        return NAME in self.forwarder._listeners

    def answers(self) -> bool:
        """Whether anybody accepts clients at its port."""
        with socket.socket() as client:
            return client.connect_ex((LOOPBACK, self.port)) == 0


@pytest.fixture
async def overdue(path: Path) -> AsyncIterator[Overdue]:
    made = Overdue(path)
    async with asyncio.TaskGroup() as group:
        (coroutine,) = made.takeover.tasks().values()
        task = group.create_task(coroutine, name="takeover")
        await eventually(takeover_path(path).exists)
        yield made
        task.cancel()
    made.forwarder.shut_down()


async def _connected(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    with suppress(BlockingIOError):
        made.connect(str(takeover_path(path)))
    return made


async def test_what_nobody_has_asked_for_is_closed_when_time_is_over(overdue: Overdue) -> None:
    assert overdue.answers()
    overdue.is_over()
    await eventually(lambda: not overdue.answers())


async def test_it_stays_while_it_is_being_handed_on_and_is_closed_where_that_fails(
    overdue: Overdue, path: Path
) -> None:
    with closing(await _connected(path)) as successor:
        await asyncio.get_running_loop().sock_sendall(
            successor, packet(Ask(protocol=PROTOCOL, values=release(), version="new", setup=SETUP))
        )
        await asyncio.get_running_loop().sock_recv(successor, 1 << 16)  # the offer: it is being described from now on
        overdue.is_over()
        assert overdue.has_it()
        assert not overdue.family.is_left
    await eventually(lambda: not overdue.answers())
    assert not overdue.family.is_left


async def test_a_successor_has_it_and_nothing_is_closed_afterwards(overdue: Overdue, path: Path) -> None:
    successor = Beside(await _connected(path), setup=SETUP)
    await eventually(successor.done.is_set)
    try:
        assert successor.failure is None
        assert overdue.family.is_left
        await eventually(lambda: not overdue.takeover._is_handing_over)
        overdue.is_over()
        assert not overdue.family.has_released
        assert await successor.ask(_serves_that)
        assert overdue.answers(), "the successor does"
    finally:
        await asyncio.to_thread(successor.end)


async def _serves_that(plane: Any) -> bool:
    assert isinstance(plane, Forwarder)
    return NAME in plane._listeners


class Remembering(NamedSockets):
    """Keeps in which thread it closed what nobody had asked for."""

    closed_in: int | None = None

    def close_inherited(self) -> None:
        super().close_inherited()
        self.closed_in = threading.get_ident()


async def test_sockets_that_nobody_has_asked_for_are_closed_beside_the_loop(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takeover, "_SERVERS_ASK_SECONDS", 0.0)
    sockets, family = Remembering(), Family()
    forwarder = a_forwarder()
    made = Takeover(path, forwarder, [cast(FamilyProxy, family)], sockets, lambda: SETUP, lambda *_: None, wanted=False)
    made._serves()
    sockets.inherit("something", os.dup(0))
    made.settled(family.family)
    await eventually(lambda: sockets.closed_in is not None)
    assert sockets.closed_in != threading.get_ident()
    assert not sockets.has("something")
    forwarder.shut_down()
