"""A thread of its own in new namespaces, against the real kernel."""

import ctypes
import errno
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from userproxy.demo.namespaces import enter_new_namespaces

pytestmark = pytest.mark.usefixtures("root")

T = TypeVar("T")
NAMESPACES = ("net", "mnt", "uts", "ipc", "pid", "user")


def in_a_thread(question: Callable[[], T]) -> T:
    """The answer of a thread that ends after it."""
    found: list[T] = []
    failed: list[Exception] = []

    def answer() -> None:
        try:
            found.append(question())
        except Exception as error:  # noqa: BLE001 -- raised below
            failed.append(error)

    thread = threading.Thread(target=answer)
    thread.start()
    thread.join(30)
    for error in failed:
        raise error
    return found[0]


def namespaces() -> dict[str, str]:
    """Of the calling thread."""
    return {name: os.readlink(f"/proc/thread-self/ns/{name}") for name in NAMESPACES}


def test_two_namespaces_are_new_and_the_others_are_as_they_were() -> None:
    before = namespaces()

    def inside() -> dict[str, str]:
        enter_new_namespaces()
        return namespaces()

    one, other = in_a_thread(inside), in_a_thread(inside)
    assert {name for name in NAMESPACES if one[name] != before[name]} == {"net", "mnt"}
    assert one["net"] != other["net"]
    assert namespaces() == before, "only that thread has moved"


def test_there_is_no_interface_but_lo() -> None:
    def inside() -> list[str]:
        enter_new_namespaces()
        return [name for _, name in socket.if_nameindex()]

    assert in_a_thread(inside) == ["lo"]


def test_run_is_empty_and_what_is_written_there_is_seen_by_nobody_else(tmp_path: Path) -> None:
    name = f"userproxy-{os.getpid()}"

    def inside() -> tuple[list[str], bool]:
        enter_new_namespaces()
        found = os.listdir("/run")
        Path("/run", name).write_text("locked")
        return found, Path("/run", name).exists()

    assert in_a_thread(inside) == ([], True)
    assert not Path("/run", name).exists()


def test_what_is_mounted_there_later_stays_there(tmp_path: Path) -> None:
    """Mounts of a shared tree, as systemd makes "/", would be passed on to the machine."""

    def inside() -> list[str]:
        enter_new_namespaces()
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mount(b"tmpfs", os.fsencode(tmp_path), b"tmpfs", 0, None) == 0
        (tmp_path / "inside").touch()
        return os.listdir(tmp_path)

    assert in_a_thread(inside) == ["inside"]
    assert os.listdir(tmp_path) == []


WITHOUT_RIGHTS = """
import os
from userproxy.demo.namespaces import enter_new_namespaces

os.setresuid(65534, 65534, 65534)
try:
    enter_new_namespaces()
except OSError as error:
    print(error.errno, error.strerror)
"""


def test_a_kernel_that_refuses_says_why() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_RIGHTS], capture_output=True, check=True, text=True)
    assert done.stdout == f"{errno.EPERM} unshare: Operation not permitted\n"
