"""``userproxy relay``."""

import os
import socket
import sys
import threading
from contextlib import suppress

import click

from userproxy.admin.client import AdminClient, AdminError, why_not
from userproxy.cli.inspect.ending import ends_in_a_sentence
from userproxy.cli.inspect.options import admin_socket

_PIECE = 65_536


@click.command()
@admin_socket
@ends_in_a_sentence
def relay(socket: str | None) -> None:
    """Connect standard input and output with the admin socket, until either ends.

    For `kubectl userproxy dashboard`, and whoever asks the admin API from another machine.
    """
    path = AdminClient(socket).path
    try:
        connected = _connect(os.fspath(path))
    except OSError as error:
        raise AdminError(why_not(path, error)) from error
    with connected:
        threading.Thread(target=_upwards, args=(connected,), name="standard input", daemon=True).start()
        with suppress(ConnectionError):
            while piece := connected.recv(_PIECE):
                _write(piece)


def _connect(path: str) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX)
    try:
        connected.connect(path)
    except OSError:
        connected.close()
        raise
    return connected


def _upwards(connected: socket.socket) -> None:
    with suppress(OSError):
        while piece := os.read(sys.stdin.fileno(), _PIECE):
            connected.sendall(piece)
        connected.shutdown(socket.SHUT_WR)


def _write(piece: bytes) -> None:
    while piece:
        piece = piece[os.write(sys.stdout.fileno(), piece) :]
