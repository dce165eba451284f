"""A look whose socket cannot be watched leaves nothing open, whatever the reason."""

import asyncio
import errno
import os
import socket
from contextlib import closing
from socket import SocketType
from types import SimpleNamespace
from typing import Any

import pytest

from tests.forwarding.conftest import NAME
from userproxy.forwarding.tcp.sources.looks import Looks
from userproxy.model import Endpoint

ENDPOINT = Endpoint("127.0.0.1", 80)


class Made:
    """Looks, and what they have done."""

    def __init__(self, error: BaseException | None) -> None:
        self.taken = 0
        self.lost = 0
        self.answered = 0
        self.socket = SocketType()
        self._error = error
        budget = SimpleNamespace(take=self._take, give=lambda count: self._take(-count))
        sockets = SimpleNamespace(connect=lambda *_: self.socket)
        poller: Any = SimpleNamespace(add=self._add, failed=None, close=lambda sock: sock.close())
        self.pair: Any = SimpleNamespace(lose=self._lose, answer=self._answer)
        self.looks = Looks(asyncio.get_running_loop(), poller, budget, sockets)  # type: ignore[arg-type]

    def begin(self) -> None:
        choice: Any = None
        self.looks.begin(self.pair, "10.0.0.1", ENDPOINT, choice, NAME)

    def _take(self, count: int) -> bool:
        self.taken += count
        return True

    def _add(self, *_: object) -> None:
        if self._error is not None:
            raise self._error

    def _answer(self) -> None:
        self.answered += 1

    def _lose(self, *_: object) -> None:
        self.lost += 1


async def test_where_the_kernel_can_watch_no_more_there_is_no_answer() -> None:
    made = Made(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    made.begin()
    assert (made.taken, made.lost, made.socket.fileno(), made.looks.current) == (0, 1, -1, set())


async def test_after_a_bug_its_socket_is_closed_too() -> None:
    made = Made(RuntimeError("a bug"))
    with pytest.raises(RuntimeError):
        made.begin()
    assert (made.taken, made.socket.fileno(), made.looks.current) == (0, -1, set())


async def test_an_answer_that_has_come_counts_though_the_time_is_over_when_that_is_seen(
    black_hole: tuple[str, int],
) -> None:
    for answers in (True, False):
        made = Made(None)
        with closing(socket.create_server(("127.0.0.1", 0))) as server:
            made.socket.setblocking(False)
            made.socket.connect_ex(server.getsockname() if answers else black_hole)
            made.begin()
            (look,) = made.looks.current
            look.time_out()
        assert (made.answered, made.lost) == ((1, 0) if answers else (0, 1))
        assert (made.taken, made.looks.current) == (0, set())
        made.looks.shut_down()
