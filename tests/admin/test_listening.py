"""Who gets the admin socket, and who may open it."""

import asyncio
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.admin.planes import Served, served
from userproxy.admin.client import AdminClient, AdminError
from userproxy.admin.listening import AdminSocket, SocketTakenError, SocketUnavailableError, may_ask


def test_only_its_user_may_open_it_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "run" / "userproxy" / "admin.sock"
    made = AdminSocket(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == (0o755 if os.geteuid() == 0 else 0o700)
    made.close()
    assert not path.exists()


def test_a_socket_that_was_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    source = "import os, socket, sys; made = socket.socket(socket.AF_UNIX); made.bind(sys.argv[1]); os._exit(0)"
    subprocess.run([sys.executable, "-c", source, str(path)], check=True)
    assert path.exists()
    made = AdminSocket(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(path))
    made.close()


def test_a_socket_where_somebody_answers_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    first = AdminSocket(path)
    with pytest.raises(SocketTakenError, match=rf"^process {os.getpid()} answers there$"):
        AdminSocket(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(path))
    first.close()


def test_a_file_in_its_place_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    path.write_text("precious")
    with pytest.raises(SocketUnavailableError, match=r"^there is a file that is no socket$"):
        AdminSocket(path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "reason"), [("x" * 120, "af_unix path too long"), ("file/admin.sock", "/.*/file is not a folder")]
)
def test_a_path_that_cannot_be_had_is_named_with_its_reason(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SocketUnavailableError, match=rf"^{reason}$"):
        AdminSocket(tmp_path / name)


def test_the_end_of_one_leaves_the_socket_of_its_successor(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    first = AdminSocket(path)
    path.unlink()
    second = AdminSocket(path)
    first.close()
    assert path.exists()
    second.close()


def test_our_own_user_may_ask() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert may_ask(one)


async def test_the_second_of_two_waits_until_the_first_ends(tmp_path: Path) -> None:
    async with served(tmp_path) as first:
        second = Served(first.path)
        task = asyncio.get_running_loop().create_task(second.server.run())
        await asyncio.sleep(0)
        first.control.found = frozenset()
        assert (await first.get("version"))["api"] == "v1"
        task.cancel()
    assert not first.path.exists()


@pytest.mark.usefixtures("root")
def test_another_user_cannot_open_it(tmp_path: Path) -> None:
    # How deep they are depends on how many tests run at a time.
    for folder in (tmp_path, *(folder for folder in tmp_path.parents if folder.name.startswith(("pytest-", "popen-")))):
        folder.chmod(0o755)
    path = tmp_path / "admin.sock"
    made = AdminSocket(path)
    source = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", source, str(path)]
    ended = subprocess.run(argv, check=False, capture_output=True, text=True)
    made.close()
    assert "PermissionError: [Errno 13]" in ended.stderr, ended.stderr


@pytest.mark.usefixtures("root")
async def test_another_user_is_refused_even_where_the_mode_lets_it_in(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    async with served(tmp_path) as api:
        api.path.chmod(0o666)
        source = (
            "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);print(s.recv(4096).decode())"
        )
        argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", source]
        ended = await asyncio.to_thread(
            lambda: subprocess.run([*argv, str(api.path)], check=False, capture_output=True, text=True)
        )
        assert "403" in ended.stdout.splitlines()[0], ended
        assert "userproxy answers root and its own user alone" in ended.stdout
        with pytest.raises(AdminError):
            AdminClient(api.path.with_name("nobody.sock")).get("version")
