"""Where data processes are found that have lost their control process."""

import asyncio
import errno
import os
import socket
from pathlib import Path

import pytest

from userproxy.processes.door import Door, doors


async def test_it_is_found_only_once_it_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "admin.sock")
    listen = socket.socket.listen

    def look_and_listen(sock: socket.socket, backlog: int = 1) -> None:
        assert list(doors(path)) == []
        listen(sock, backlog)

    monkeypatch.setattr(socket.socket, "listen", look_and_listen)
    callers: list[socket.socket] = []
    door = Door(asyncio.get_running_loop(), path, callers.append)
    ((process, connection),) = doors(path)
    with connection:
        assert process == os.getpid()
    door.close()
    assert list(tmp_path.iterdir()) == []


async def test_that_of_a_process_that_has_died_is_removed(tmp_path: Path) -> None:
    path = str(tmp_path / "admin.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(f"{path}.data-1")
    assert list(doors(path)) == []
    assert list(tmp_path.iterdir()) == []


async def test_where_nothing_can_listen_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "admin.sock"
    with pytest.raises(OSError, match="No such file"):
        Door(asyncio.get_running_loop(), str(path), lambda _: None)


@pytest.mark.parametrize("fails", ["listen", "rename"])
async def test_where_it_cannot_be_found_it_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "not here")

    monkeypatch.setattr(socket.socket if fails == "listen" else Path, fails, refuse)
    with pytest.raises(OSError, match="not here"):
        Door(asyncio.get_running_loop(), str(tmp_path / "admin.sock"), lambda _: None)
    assert list(tmp_path.iterdir()) == []
