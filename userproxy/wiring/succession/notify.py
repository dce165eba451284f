"""Tells systemd how far this process is (sd_notify(3)), where it was started with ``Type=notify``."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress


def notify(state: str, environ: Mapping[str, str] = os.environ) -> None:
    """Send lines such as ``READY=1`` to the service manager. Nothing happens where there is none, or it does not hear.

    The name of its socket stays in the environment: a successor that we start needs it, too.
    """
    path = environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = f"\0{path[1:]}" if path.startswith("@") else path
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(1)
        manager.sendto(state.encode(), address)
