"""Tells all data processes what to do with connections: :class:`~userproxy.model.steering.Steering`."""

from typing import Final

from userproxy.model.reports import Query
from userproxy.processes.channel import Decoder
from userproxy.processes.control.data_plane import ProcessesDataPlane
from userproxy.processes.messages import CloseConnections

_COUNTS: Final[Decoder[int]] = Decoder(int)


class ProcessesSteering:
    """Does it in all data processes that `data_plane` asks. To be used on the loop's thread only."""

    def __init__(self, data_plane: ProcessesDataPlane) -> None:
        self._data_plane = data_plane

    async def close_connections(self, query: Query, reason: str) -> int:
        """See :class:`~userproxy.model.steering.Steering`. What a process closes that ends meanwhile is not counted."""
        return sum(await self._data_plane.answers(lambda number: CloseConnections(number, query, reason), _COUNTS))
