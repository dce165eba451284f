"""The program of a data process. The control process starts it; nobody else can.

Its arguments say to people what it is; the options after them are for the program.
"""

import argparse
import asyncio
import os
import signal
import socket
import sys

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main() -> None:
    """Serve until the control process says so, or has gone."""
    parser = argparse.ArgumentParser("userproxy data process", description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--event-loop", default="auto")
    parser.add_argument("--verbosity", type=int, default=0)
    parser.add_argument("--logging-format")
    arguments = parser.parse_args()
    # A terminal and systemd send these to all processes of a group: it is the control process's to tell us.
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
    from userproxy.telemetry.logging import configure  # first: it hides a part of structlog that is slow to import

    configure(arguments.verbosity, arguments.logging_format)
    from userproxy.processes.data.process import serve
    from userproxy.processes.loops import loop_factory, name_process, set_up_interpreter
    from userproxy.processes.messages import Logging

    name_process("userproxy data")
    set_up_interpreter(starting=True)
    os.set_inheritable(arguments.channel, False)  # noqa: FBT003 -- the os module's own
    sock = socket.socket(fileno=arguments.channel)
    with asyncio.Runner(loop_factory=loop_factory(arguments.event_loop)) as runner:
        runner.run(serve(sock, Logging(arguments.verbosity, arguments.logging_format)))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # else what 10,000 listeners consist of would be freed one by one, while another process begins


if __name__ == "__main__":
    main()
