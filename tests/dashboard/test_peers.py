"""Whose program is at the other end of a connection."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from userproxy.dashboard import peers
from userproxy.dashboard.peers import user_of, users_of_page
from userproxy.model import Endpoint

NOBODY = 65534
CONNECTED = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as asking:
    print(asking.getsockname()[1], flush=True)
    sys.stdin.read()
"""


@contextmanager
def connected() -> Iterator[tuple[Endpoint, Endpoint]]:
    """Both ends of a connection of our own."""
    listening = socket.create_server(("127.0.0.1", 0))
    with listening, socket.create_connection(listening.getsockname()) as asking:
        yield Endpoint(*listening.getsockname()), Endpoint(*asking.getsockname())


def test_ones_own_connection_is_ones_own() -> None:
    with connected() as ends:
        assert user_of(*ends) == os.geteuid()


def test_a_connection_that_does_not_exist_is_nobodys() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert user_of(Endpoint(*listening.getsockname()), Endpoint("127.0.0.1", 1)) is None
        # The kernel falls back to sockets that listen at the address.
        assert user_of(Endpoint("127.0.0.1", 1), Endpoint(*listening.getsockname())) is None


def test_a_connection_that_was_closed_is_nobodys_and_not_roots() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        asking = socket.create_connection(listening.getsockname())
        ends = Endpoint(*listening.getsockname()), Endpoint(*asking.getsockname())
        accepted, _ = listening.accept()
        with accepted:
            asking.close()
            assert user_of(*ends) is None


@pytest.mark.usefixtures("root")
def test_another_users_connection_is_theirs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = Endpoint(*listening.getsockname())
        argv = ["setpriv", f"--reuid={NOBODY}", "--clear-groups", sys.executable, "-S", "-c", CONNECTED, str(ours.port)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            theirs = Endpoint("127.0.0.1", int(child.stdout.readline()))
            assert user_of(ours, theirs) == NOBODY


def test_a_kernel_without_socket_lists_over_netlink_has_them_as_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*ends: Endpoint) -> int | None:
        raise FileNotFoundError

    monkeypatch.setattr(peers, "user_of_connection", refuse)
    with connected() as ends:
        assert user_of(*ends) == os.geteuid()
    assert user_of(*ends) is None
    assert Path("/proc/thread-self/net/tcp").exists()


@pytest.mark.parametrize(
    ("user", "environ", "users"),
    [
        (1000, {}, {1000}),
        (0, {}, {0}),
        (0, {"SUDO_UID": "1000"}, {0, 1000}),
        (1000, {"SUDO_UID": "1001"}, {1000}),
        (0, {"SUDO_UID": "me"}, {0}),
    ],
)
def test_the_page_is_for_who_has_started_it(user: int, environ: dict[str, str], users: set[int]) -> None:
    assert users_of_page(environ, user) == users
