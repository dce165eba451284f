"""Tells all data processes what to do with connections: :class:`~userproxy.model.steering.Steering`."""

from typing import Final

from userproxy.model.faults import Fault
from userproxy.model.reports import Query
from userproxy.processes.channel import Decoder
from userproxy.processes.control.observation.data_plane import ProcessesDataPlane
from userproxy.processes.control.pool import Pool
from userproxy.processes.control.worker import Worker
from userproxy.processes.messages import PutFaults
from userproxy.processes.questions import CloseConnections

_COUNTS: Final[Decoder[int]] = Decoder(int)


class ProcessesSteering:
    """Does it in all data processes of `pool`, which `data_plane` asks. To be used on the loop's thread only."""

    def __init__(self, pool: Pool, data_plane: ProcessesDataPlane) -> None:
        self._pool = pool
        self._data_plane = data_plane
        self.faults: tuple[Fault, ...] = ()
        """See :class:`~userproxy.model.steering.Steering`."""

    def begins(self, worker: Worker) -> None:
        """Tell a data process that takes a place of the faults that there are, before it has anything to serve."""
        worker.send(PutFaults(self.faults))

    def put_faults(self, faults: tuple[Fault, ...]) -> None:
        """See :class:`~userproxy.model.steering.Steering`."""
        self.faults = faults
        for worker in self._pool.serving:
            worker.send(PutFaults(faults))

    async def close_connections(self, query: Query, reason: str) -> int:
        """See :class:`~userproxy.model.steering.Steering`. What a process closes that ends meanwhile is not counted."""
        ask = self._data_plane.answers_unless_left
        return sum(await ask(lambda number: CloseConnections(number, query, reason), _COUNTS))
