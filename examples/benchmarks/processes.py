"""Child processes that never outlive the benchmark, whichever way it ends."""

import ctypes
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_STOP_LIMIT = 5.0
# Below the kernel's default range of ephemeral ports, where no outgoing connection of the load can sit.
_PORTS = range(20000, 30000)


class StartError(Exception):
    """A process does not start or does not answer in time; the text ends with its last words."""


def free_port(addresses: Sequence[str] = ("127.0.0.1",)) -> int:
    """A port that nothing holds on any of `addresses`, TCP or UDP. Raises StartError where there is none."""
    for port in random.sample(_PORTS, len(_PORTS)):
        if all(_can_bind(address, port) for address in addresses):
            return port
    raise StartError(f"no port from {_PORTS.start} to {_PORTS.stop - 1} is free")


def _can_bind(address: str, port: int) -> bool:
    with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
        try:
            stream.bind((address, port))
            datagram.bind((address, port))
        except OSError:
            return False
    return True


@contextmanager
def running(
    command: Sequence[str], log: Path, *, piped: bool = False, descriptors: Sequence[int] = ()
) -> Iterator[subprocess.Popen[str]]:
    """The running `command` in a process group of its own, with `descriptors`; the group is stopped as a whole.

    Its output goes to `log`; where it is `piped`, standard input and output are pipes to us instead. It also
    gets SIGTERM when we die without cleaning up. Raises StartError where it cannot be run.
    """
    with ExitStack() as stack:
        sink = stack.enter_context(log.open("w"))
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else sink,
                stderr=sink,
                text=True,
                bufsize=1,
                start_new_session=True,
                preexec_fn=_die_with_parent(),
                pass_fds=descriptors,
            )
        except OSError as error:
            raise StartError(f"{command[0]} cannot be run: {error.strerror}") from error
        stack.callback(stop, process)
        yield process


def _die_with_parent() -> Callable[[], None]:
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def arrange() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return arrange


def stop(process: subprocess.Popen[str]) -> None:
    """End the process and its group: SIGTERM, and SIGKILL to whatever is left of it after five seconds."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_LIMIT)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def serves_requests(address: tuple[str, int]) -> bool:
    """Whether a request over TCP is answered."""
    try:
        with socket.create_connection(address, timeout=1) as probe:
            probe.sendall(b"GET /1 HTTP/1.1\r\n\r\n")
            return probe.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def echoes_datagrams(address: tuple[str, int]) -> bool:
    """Whether a datagram comes back."""
    try:
        with socket.socket(type=socket.SOCK_DGRAM) as probe:
            probe.settimeout(0.2)
            probe.connect(address)
            probe.send(b"are you there?")
            return probe.recv(64) == b"are you there?"
    except OSError:
        return False


def wait_until_served(
    address: tuple[str, int],
    process: subprocess.Popen[str],
    log: Path,
    limit: float,
    answers: Callable[[tuple[str, int]], bool] = serves_requests,
) -> None:
    """Return once a backend answers at `address`. Raises StartError after `limit` seconds."""
    deadline = time.monotonic() + limit
    while not answers(address):
        if process.poll() is not None:
            raise StartError(f"it ended with code {process.returncode}: {last_words(log)}")
        if time.monotonic() > deadline:
            raise StartError(f"no answer on {address[0]}:{address[1]} within {limit:g} s: {last_words(log)}")
        time.sleep(0.02)


def last_words(log: Path, length: int = 400) -> str:
    """The end of a log on one line, or a word that it is empty."""
    return " | ".join(log.read_text(errors="replace").split("\n"))[-length:].strip(" |") or "it wrote nothing"
