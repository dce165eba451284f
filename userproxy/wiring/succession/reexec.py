"""A successor of this process, started by a signal: for a new release, or other flags (``systemctl reload``)."""

import asyncio
import signal
import subprocess
import sys

import structlog

log = structlog.get_logger()

_FLAG = "--takeover"


def succeed_on_signal(loop: asyncio.AbstractEventLoop) -> None:
    """Have SIGUSR2 start the program that is installed now, with our arguments, to take over from this process."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        started[:] = [each for each in started if each.poll() is None]
        if started:
            log.info("A successor is on its way already", process=started[0].pid)
            return
        try:
            started.append(subprocess.Popen(command(sys.argv)))
        except OSError as error:
            log.error("No successor could be started: serving on", reason=error.strerror)
        else:
            log.info("A successor is started", process=started[0].pid)

    loop.add_signal_handler(signal.SIGUSR2, start)


def command(arguments: list[str]) -> list[str]:
    """How to start ourselves again to take over; `arguments` as of sys.argv."""
    given = [each for each in arguments[1:] if each.partition("=")[0] != _FLAG]
    at = given.index("run") + 1 if "run" in given else len(given)
    return [sys.executable, "-m", "userproxy", *given[:at], _FLAG, *given[at:]]
