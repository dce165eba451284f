"""What the balancers of a process have to tell, so that nobody has to ask all of them. Pure."""

from collections.abc import Callable, Collection
from typing import Protocol

from userproxy.model import ListenerName
from userproxy.routing.balancers.ejections import Ejected
from userproxy.routing.balancers.shared.mirror import Decider


class Telling(Protocol):
    """A listener's balancer, as the board knows it. `fault` says why what its Service asks for is not used."""

    listener: ListenerName | None
    fault: str

    @property
    def name(self) -> str:
        """What the Service asks for."""

    def ejected(self, now: float) -> Collection[Ejected]:
        """The endpoints that it has ejected now."""


class BalancerBoard:
    """Which balancers of a process have ejected endpoints, and which are faulty.

    Where several processes have connections to the same endpoints, `decider` ejects them for all.
    """

    __slots__ = ("_ejecting", "_faulty", "decider", "later")

    def __init__(self, later: Callable[[object, Callable[[], bool]], None] | None = None) -> None:
        """`later` has something done for somebody when it is its turn, in place of what was to be done for them."""
        self.later = later
        self.decider: Decider | None = None
        self._ejecting: dict[Telling, None] = {}
        self._faulty: dict[Telling, None] = {}

    def note(self, balancer: Telling) -> None:
        """A balancer has ejected an endpoint."""
        self._ejecting[balancer] = None

    def note_fault(self, balancer: Telling) -> None:
        """A balancer cannot do what its Service asks for."""
        self._faulty[balancer] = None

    def ejected(self, now: float) -> list[tuple[ListenerName, Telling, Ejected]]:
        """The endpoints that are ejected now, each with its listener and the balancer of that."""
        found = []
        for balancer in tuple(self._ejecting):
            its = balancer.ejected(now)
            if its and balancer.listener is not None:
                found += [(balancer.listener, balancer, each) for each in its]
            else:
                del self._ejecting[balancer]
        return found

    def faulty(self) -> list[tuple[ListenerName, Telling]]:
        """The balancers that are faulty now, each with its listener."""
        found = []
        for balancer in tuple(self._faulty):
            if balancer.fault and balancer.listener is not None:
                found.append((balancer.listener, balancer))
            else:
                del self._faulty[balancer]
        return found
