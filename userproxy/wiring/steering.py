"""What is asked of endpoints and connections besides what the cluster says, and how it outlives a take-over."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec
import structlog

from userproxy.admin.rows import Controls
from userproxy.admin.steering.fault_table import FaultTable
from userproxy.model.data_plane import HandedOverError
from userproxy.model.reports import Query
from userproxy.model.steering import DRAINED, Drain, Steering
from userproxy.proxier.drains.table import DrainState, DrainTable

log = structlog.get_logger()

DRAINS: Final = "drains"
"""What a successor knows the descriptor by that has the drains: among sockets, so that any release can pass it on."""

_MOST_BYTES: Final = 64 << 20


class Drains:
    """The drains of a proxy, whose connections `steering` closes in time."""

    def __init__(self, steering: Steering) -> None:
        self._steering = steering
        self._due: asyncio.Queue[Drain] = asyncio.Queue()
        self._memory: int | None = None
        self._adopted: DrainState | None = None
        """Those of a predecessor that still serves."""
        self.table = DrainTable(asyncio.get_running_loop(), self._due.put_nowait)

    def tasks(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What closes connections, by the name of its task."""
        return {"drains": self._run()}

    def controls(self, may_have_faults: Callable[[], bool]) -> Controls:
        """What the admin API makes changes by."""
        return Controls(self._steering, self.table, FaultTable(self._steering, may_have_faults))

    def descriptor(self) -> int:
        """A descriptor of a file in memory that has all drains as they are now. It stays ours. Raises OSError."""
        if self._memory is None:
            self._memory = os.memfd_create("userproxy drains", os.MFD_CLOEXEC)
        os.ftruncate(self._memory, 0)
        os.pwrite(self._memory, msgspec.msgpack.encode(self.table.state()), 0)
        return self._memory

    def adopt(self, descriptor: int) -> None:
        """Take in the drains of a predecessor, for :meth:`go_on`. Takes over the descriptor.

        One that cannot be read is ignored.
        """
        try:
            self._adopted = msgspec.msgpack.decode(os.pread(descriptor, _MOST_BYTES, 0), type=DrainState)
        except (OSError, msgspec.DecodeError) as error:
            log.warning("The drains of the predecessor are over: they cannot be read", reason=str(error))
            return
        finally:
            os.close(descriptor)

    def go_on(self) -> None:
        """The connections are ours by now: go on with the drains that were taken in, some of which may be due.

        Not sooner: to close a connection would reset that of the predecessor, which has the same socket.
        """
        state, self._adopted = self._adopted, None
        if state is not None:
            self.table.restore(state)

    def close(self) -> None:
        """Cancel timers, and close the file."""
        self.table.shut_down()
        if self._memory is not None:
            os.close(self._memory)
            self._memory = None

    async def _run(self) -> None:
        while True:
            drain = await self._due.get()
            query = Query(drain.service.namespace, drain.service.name, endpoint=drain.endpoint)
            about = {"service": str(drain.service), "endpoint": str(drain.endpoint)}
            try:
                closed = await self._steering.close_connections(query, DRAINED)
            except HandedOverError as error:
                log.debug("Connections to a drained endpoint are not closed here", v=2, **about, reason=str(error))
            except Exception:  # other drains are to go on, and so is the proxy
                log.exception("Connections to a drained endpoint are not closed, which is a bug in userproxy", **about)
            else:
                log.info("Connections to a drained endpoint closed", **about, connections=closed)
