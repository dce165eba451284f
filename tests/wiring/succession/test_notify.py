"""What systemd is told (sd_notify(3))."""

import socket
from pathlib import Path

import pytest

from userproxy.wiring.succession.notify import notify


@pytest.mark.parametrize("abstract", [False, True])
def test_the_manager_hears_it_at_a_path_or_an_abstract_name(tmp_path: Path, *, abstract: bool) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{tmp_path}" if abstract else str(tmp_path / "notify"))
        manager.settimeout(5)
        notify("READY=1", {"NOTIFY_SOCKET": f"@{tmp_path}" if abstract else str(tmp_path / "notify")})
        assert manager.recv(100) == b"READY=1"


def test_without_a_manager_or_with_one_that_is_gone_nothing_happens(tmp_path: Path) -> None:
    notify("READY=1", {})
    notify("READY=1", {"NOTIFY_SOCKET": "vsock:2:1"})
    notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "gone")})
