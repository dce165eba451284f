"""All watches of the data plane, as one: what they say of the node, and their tasks."""

from collections.abc import Callable, Coroutine
from typing import Any

from userproxy.model import Problem, ServicePortName
from userproxy.model.data_plane import DataPlane
from userproxy.wiring.watches.balancer_faults import BalancerFaultsWatch
from userproxy.wiring.watches.ejected_endpoints import EjectedEndpointsWatch
from userproxy.wiring.watches.lost_answers import LostAnswersWatch
from userproxy.wiring.watches.needed_pods import NeededPodsWatch


class DataPlaneWatches:
    """Asks `data_plane` from time to time; `changed` is called when the problems are others."""

    def __init__(self, data_plane: DataPlane, changed: Callable[[], None]) -> None:
        self._data_plane = data_plane
        self._lost_answers = LostAnswersWatch(data_plane, changed)
        self._ejected = EjectedEndpointsWatch(data_plane, changed)
        self._faults = BalancerFaultsWatch(data_plane, changed)

    @property
    def problems(self) -> frozenset[Problem]:
        """Those of now."""
        return self._lost_answers.problems | self._ejected.problems | self._faults.problems

    def tasks(self, needs_pods: Callable[[ServicePortName], None]) -> dict[str, Coroutine[Any, Any, None]]:
        """What asks until it is cancelled, by the names of its tasks.

        `needs_pods` is told of a service port whose clients are held.
        """
        return {
            "lost answers": self._lost_answers.run(),
            "faults of balancers": self._faults.run(),
            "ejected endpoints": self._ejected.run(),
            "needed pods": NeededPodsWatch(self._data_plane, needs_pods).run(),
        }
