"""Where the admin socket is."""

from pathlib import Path

import pytest

from userproxy.admin.paths import ROOTS_SOCKET, default_socket


@pytest.mark.parametrize(
    ("environ", "user", "path"),
    [
        ({}, 0, ROOTS_SOCKET),
        ({"XDG_RUNTIME_DIR": "/run/user/0"}, 0, ROOTS_SOCKET),
        ({"XDG_RUNTIME_DIR": "/run/user/1000"}, 1000, Path("/run/user/1000/userproxy/admin.sock")),
        ({"XDG_RUNTIME_DIR": "run/user"}, 1000, None),
        ({"XDG_RUNTIME_DIR": ""}, 1000, None),
        ({}, 1000, None),
    ],
)
def test_root_and_others_have_it_elsewhere(environ: dict[str, str], user: int, path: Path | None) -> None:
    assert default_socket(environ, user) == path
