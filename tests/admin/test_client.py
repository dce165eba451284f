"""What commands say when there is nobody to ask, or somebody else."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from userproxy import __version__
from userproxy.admin import client
from userproxy.admin.client import AdminClient, AdminError
from userproxy.admin.paths import default_socket


@contextmanager
def answering(path: Path, *answers: bytes | None) -> Iterator[None]:
    """Something that answers requests with these, and goes; None leaves one open without an answer."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            for answer in answers:
                client, _ = listening.accept()
                with client:
                    client.recv(4096)
                    if answer is None:
                        client.recv(1)
                    else:
                        client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


def sentence(path: Path, seconds: float = 10.0) -> str:
    with pytest.raises(AdminError) as caught:
        AdminClient(path, seconds).get("version")
    text = str(caught.value)
    assert "\n" not in text
    return text


def http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def test_no_socket(tmp_path: Path) -> None:
    assert sentence(tmp_path / "admin.sock").startswith(f"there is no socket {tmp_path}/admin.sock: no userproxy runs")


def test_no_folder_or_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "there is no socket" in sentence(tmp_path / "none" / "admin.sock")
    assert "there is no socket" in sentence(tmp_path / "file" / "admin.sock")
    assert sentence(tmp_path / "file").startswith(f"{tmp_path}/file is not a socket")


def test_a_socket_that_was_left_behind(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "admin.sock"))
    assert sentence(tmp_path / "admin.sock").startswith("no userproxy runs here: nobody listens at ")


def test_a_path_too_long_for_a_socket(tmp_path: Path) -> None:
    assert sentence(tmp_path / ("x" * 120)).endswith("cannot be asked: af_unix path too long")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (http(b"{}"), "is no userproxy: name its socket with --admin-socket"),
        (http(b"{}", "Server: nginx"), "is no userproxy"),
        (b"SSH-2.0-OpenSSH\r\n", "breaks off or is no HTTP"),
        (http(b"{}", "Server: userproxy/9.9"), f"is version 9.9, and this command is version {__version__}: use"),
        (http(b"oh", f"Server: userproxy/{__version__}"), "is not what userproxy says"),
        (http(b"[]", f"Server: userproxy/{__version__}"), "is not what userproxy says"),
        (
            http(b'{"error":"no, and why"}', f"Server: userproxy/{__version__}", status="400 Bad Request"),
            "^no, and why$",
        ),
    ],
)
def test_somebody_who_is_not_what_we_look_for(tmp_path: Path, answer: bytes, expected: str) -> None:
    path = tmp_path / "admin.sock"
    with answering(path, answer), pytest.raises(AdminError, match=expected):
        AdminClient(path).get("version")


_VERSION = http(b'{"api": "v1"}', f"Server: userproxy/{__version__}")
_LEFT = http(
    b'{"error":"gone"}', f"Server: userproxy/{__version__}", "Retry-After: 0", status="503 Service Unavailable"
)


@pytest.mark.parametrize("answers", [[b""], [_LEFT], [_LEFT, b"", _LEFT]])
def test_who_leaves_before_it_answers_may_have_a_successor(tmp_path: Path, answers: list[bytes]) -> None:
    path = tmp_path / "admin.sock"
    with answering(path, *answers, _VERSION):
        assert AdminClient(path).get("version") == {"api": "v1"}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"", "it was probably just stopped"),
        (_LEFT, "^gone$"),
        (http(b'{"items": [', f"Server: userproxy/{__version__}")[:-2], "breaks off: was that userproxy just stopped"),
    ],
)
def test_who_always_leaves_is_asked_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes, expected: str
) -> None:
    monkeypatch.setattr(client, "AGAIN_SECONDS", 0.001)
    path = tmp_path / "admin.sock"
    with answering(path, *[answer] * client.MOST_TRIES), pytest.raises(AdminError, match=expected):
        AdminClient(path).get("version")


def test_nobody_who_answers_in_time(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with answering(path, None):
        assert sentence(path, 0.05) == f"userproxy at {path} has not answered within 0.05 s"


def test_another_version_can_be_asked_on_purpose(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with answering(path, http(b'{"version": "9.9"}', "Server: userproxy/9.9")):
        assert AdminClient(path, any_version=True).get("version") == {"version": "9.9"}


def test_the_usual_places() -> None:
    assert default_socket({}, 0) == Path("/run/userproxy/admin.sock")
    assert default_socket({"XDG_RUNTIME_DIR": "/run/user/7"}, 7) == Path("/run/user/7/userproxy/admin.sock")
    assert default_socket({}, 7) is None
    assert default_socket({"XDG_RUNTIME_DIR": "relative"}, 7) is None


def test_without_a_usual_place_the_flag_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("userproxy.admin.client.default_socket", lambda: None)
    with pytest.raises(AdminError, match=r"--admin-socket"):
        AdminClient()
