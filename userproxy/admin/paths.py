"""Where the admin socket is, unless ``--admin-socket`` says otherwise."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOTS_SOCKET: Final = Path("/run/userproxy/admin.sock")


def default_socket(environ: Mapping[str, str] = os.environ, user: int | None = None) -> Path | None:
    """``/run/userproxy/admin.sock`` for root, else in ``$XDG_RUNTIME_DIR``; None without one.

    `user` is the user's id, that of this process by default.
    """
    if (os.geteuid() if user is None else user) == 0:
        return ROOTS_SOCKET
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    return Path(runtime) / "userproxy" / "admin.sock" if runtime.startswith("/") else None
