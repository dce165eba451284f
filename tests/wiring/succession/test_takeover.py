"""A predecessor that was asked waits for an answer: it is asked once we are ready to give one."""

import socket
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from userproxy.processes.control.forwarding import ProcessForwarder
from userproxy.processes.takeover.deference import Deference
from userproxy.sockets import NamedSockets
from userproxy.wiring.succession.takeover import Takeover, takeover_path


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
