"""Does what :class:`~userproxy.model.steering.Steering` says, for the connections and flows of this process."""

from userproxy.forwarding.failures import HandlerFailures
from userproxy.forwarding.faults.faults import Faults
from userproxy.forwarding.observation.data_plane import LocalDataPlane
from userproxy.forwarding.udp.flow import UdpFlow
from userproxy.model.faults import Fault
from userproxy.model.reports import Outcome, Query


class LocalSteering:
    """Closes connections that `data_plane` finds, and has them suffer `faults`.

    One that cannot be closed is told to `failures`. To be used on the loop's thread only.
    """

    def __init__(self, data_plane: LocalDataPlane, faults: Faults, failures: HandlerFailures) -> None:
        self._data_plane = data_plane
        self._faults = faults
        self._failures = failures

    @property
    def faults(self) -> tuple[Fault, ...]:
        """See :class:`~userproxy.model.steering.Steering`."""
        return self._faults.wanted

    def put_faults(self, faults: tuple[Fault, ...]) -> None:
        """See :class:`~userproxy.model.steering.Steering`."""
        self._faults.put(faults)

    async def close_connections(self, query: Query, reason: str) -> int:
        """See :class:`~userproxy.model.steering.Steering`."""
        count = 0
        async for member in self._data_plane.members(query):
            try:
                if isinstance(member, UdpFlow):
                    member.close(reason, Outcome.RESET)
                else:
                    member.abort(reason)
            except Exception as error:  # noqa: BLE001 -- the others are to be closed, too
                self._failures.note(error)
            else:
                count += 1
        return count
