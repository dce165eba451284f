"""One data process without a control process, which would take it for dead where it is fifty times slower."""

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from examples.benchmarks.calls import NAME, OPTIONS
from examples.benchmarks.processes import StartError, last_words, running
from userproxy.forwarding.accept_turns import open_tally
from userproxy.model import Endpoint, Snapshot, Verdict
from userproxy.processes.channel import packet, socket_pair
from userproxy.processes.messages import Adopt, Settled, Start, Update

_MOST_BYTES = 1 << 16
"""Of a packet that a data process sends."""


@contextmanager
def data_process(
    wrapped: Callable[[Sequence[str]], Sequence[str]], endpoint: tuple[str, int], log: Path, limit: float
) -> Iterator[tuple[int, tuple[str, int]]]:
    """A running data process, whose command is `wrapped`, with a listener that leads to `endpoint`.

    Yields its id, and the listener's address. It is told what a control process would tell it. Raises StartError where
    it says nothing for `limit` seconds.
    """
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        ours, theirs = socket_pair()
        stack.enter_context(ours)
        with theirs:
            channel = theirs.fileno()
            command = wrapped((sys.executable, "-P", "-m", "userproxy.processes", f"--channel={channel}"))
            process = stack.enter_context(running(command, log, descriptors=(channel,)))
        ours.settimeout(limit)
        try:
            _brief(ours, listening, endpoint)
        except OSError as error:
            raise StartError(f"a data process does not start: {error}: {last_words(log)}") from error
        threading.Thread(target=_read_on, args=(ours.dup(),), daemon=True).start()
        yield process.pid, listening.getsockname()


def _brief(ours: socket.socket, listening: socket.socket, endpoint: tuple[str, int]) -> None:
    """Tell a data process of one listener, once it is ready. Raises OSError."""
    if not ours.recv(_MOST_BYTES):
        raise ConnectionResetError("it has ended")
    tally = open_tally()
    try:
        socket.send_fds(ours, [packet(Start(1, 1, OPTIONS, 0))], [tally])
    finally:
        os.close(tally)
    socket.send_fds(ours, [packet(Adopt(NAME, 1, (0,)))], [listening.fileno()])
    ours.send(packet(Update(Snapshot(NAME, Verdict.SERVE, (Endpoint(*endpoint),)))))
    ours.send(packet(Settled()))


def _read_on(ours: socket.socket) -> None:
    """Read what it tells of itself, for as long as it runs: else that would wait in its memory."""
    with ours:
        ours.settimeout(None)
        while ours.recv(_MOST_BYTES):
            pass
