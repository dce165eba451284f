"""What all balancers of a process share, and the making of one for a listener."""

import asyncio
from random import Random

from userproxy.forwarding.affinity_tables import AffinityTables
from userproxy.forwarding.balancers.installed import InstalledBalancers
from userproxy.forwarding.balancers.tables import TablesToMake
from userproxy.routing.balancer import Balancer
from userproxy.routing.balancers.board import BalancerBoard


class Balancing:
    """Affinity, tables that are made in slices, the board that balancers stand on, and balancers of other packages."""

    def __init__(self, loop: asyncio.AbstractEventLoop, random: Random) -> None:
        self.affinity = AffinityTables(loop)
        self._tables = TablesToMake(loop)
        self.board = BalancerBoard(self._tables.add)
        self._custom = InstalledBalancers(loop.call_soon_threadsafe)
        self._random = random

    def balancer(self) -> Balancer:
        """A new one, for a listener."""
        return Balancer(self._random, self.affinity.of, self.board, self._custom)

    def shut_down(self) -> None:
        """Cancel all timers."""
        self.affinity.shut_down()
        self._tables.stop()
