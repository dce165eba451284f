"""Data processes whose control process has died: the next one adopts them, with their sockets and connections."""

import asyncio
import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

import structlog
from msgspec import structs

from userproxy.forwarding.assembly.options import ForwardingOptions
from userproxy.processes.channel import packet
from userproxy.processes.control.worker import Worker
from userproxy.processes.door import doors
from userproxy.processes.messages import PROTOCOL, Claim, Estate, Inherited, Leave, Retire, Start

log = structlog.get_logger()

_ANSWER_SECONDS: Final = 2.0
_DRAIN_SECONDS: Final = 30.0
_END_SECONDS: Final = 5.0


class Orphans:
    """Those that are found at a path. `ready` and `ended` are a worker's."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        path: str,
        ready: Callable[[Worker], None],
        ended: Callable[[Worker, str], None],
    ) -> None:
        self._loop = loop
        self._path = path
        self._ready = ready
        self._ended = ended
        self.others: list[Worker] = []
        """Those that are of no use, and have been told to drain."""
        self.sockets: list[tuple[Inherited, int]] = []
        self.tally: int | None = None
        self.last_id = 0
        self.last_number = 0

    def adopted(self, processes: int, options: ForwardingOptions) -> dict[int, Worker]:
        """Those that fit `processes` places and forward by `options`, by the numbers of their places."""
        found: dict[int, Worker] = {}
        for pid, connection in doors(self._path):
            try:
                worker = Worker(self._loop, pid, connection, self._ready, self._ended)
            except OSError:
                continue
            worker.send(Claim(PROTOCOL))
            worker.channel.wait(partial(_has_answered, worker), _ANSWER_SECONDS)
            estate = worker.estate
            if estate is None:
                log.warning("A data process cannot be adopted", pid=pid, reason=worker.refusal or "it does not answer")
                worker.leave_alone()
            elif _fits(estate[0].start, processes, options) and estate[0].start.number not in found:
                self._take(worker, *estate)
                found[estate[0].start.number] = worker
            else:
                log.warning("A data process cannot be adopted: it was started otherwise, and drains", pid=pid)
                worker.give_back()  # else clients would wait in the queues of sockets from which nobody accepts
                worker.send(Retire(_DRAIN_SECONDS))
                self.others.append(worker)
        if found:
            pids = [worker.pid for worker in found.values()]
            log.info("Data processes are adopted, whose control process has gone", pids=pids)
        return found

    def _take(self, worker: Worker, estate: Estate, tally: int) -> None:
        if self.tally is None:
            self.tally = tally
        else:
            os.close(tally)
        worker.estate = None
        self.last_id = max(self.last_id, estate.start.first_id)
        self.last_number = max(self.last_number, estate.last_number)
        known = {(each.listener, each.portal, each.member) for each, _ in self.sockets}
        for each, descriptor in worker.inherited:
            if (each.listener, each.portal, each.member) in known:
                os.close(descriptor)
            else:
                self.sockets.append((each, descriptor))
        worker.inherited.clear()


def end_all(path: str) -> list[int]:
    """End the data processes that a control process has left, with their connections; returns their ids. Blocking.

    `path` is where they are found. Those that do not follow are killed.
    """
    ended = []
    for pid, connection in doors(path):
        with connection:
            try:
                descriptor = os.pidfd_open(pid)
            except OSError:  # it has just ended
                continue
            with suppress(OSError):
                connection.send(packet(Leave()))
            _wait_or_kill(descriptor)
            ended.append(pid)
    return ended


def _wait_or_kill(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    try:
        if not poll.poll(1000 * _END_SECONDS):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            poll.poll(1000 * _END_SECONDS)
    finally:
        os.close(descriptor)


def _has_answered(worker: Worker) -> bool:
    return worker.estate is not None or bool(worker.refusal)


def _fits(start: Start, processes: int, options: ForwardingOptions) -> bool:
    same = structs.replace(start.options, descriptor_limit=options.descriptor_limit)
    return start.of == processes and same == options
