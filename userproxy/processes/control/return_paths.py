"""What data processes are told of the ways back for answers to clients' addresses, and hold of them."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial

from userproxy.forwarding.client_addresses import ClientAddresses
from userproxy.forwarding.handover import learned
from userproxy.forwarding.handover.values import PairsHandedOver
from userproxy.model import IPFamily, ReturnPath
from userproxy.processes.control.worker import Worker
from userproxy.processes.messages import FollowReturnPath, Keep, Learned, LetGo


class ReturnPaths:
    """Those of each family, for all that `serving()` returns.

    What a control process has stands as long as a data process holds a copy of the socket that owns it. So data
    processes whose control process was killed go on with what that one had, until the next one has as much, or, where
    that needs none, until no connection or flow that keeps its client's address is left.
    """

    def __init__(self, serving: Callable[[], Sequence[Worker]]) -> None:
        self._serving = serving
        self._owners: Callable[[IPFamily], Sequence[int]] = lambda _: ()
        self._released = False
        self.paths: dict[IPFamily, ReturnPath] = {}
        """What was found out about this host."""
        self._counter = itertools.count(1)
        self._numbers: dict[IPFamily, int] = {}
        """Of the paths, as data processes were told them."""
        self._known = ClientAddresses()
        """What data processes have found out, for those that are still to come."""

    def keep(self, owners: Callable[[IPFamily], Sequence[int]]) -> None:
        """Have data processes hold copies of the descriptors that a family's `owners()` are when its path changes."""
        self._owners = owners

    def follow(self, path: ReturnPath) -> None:
        """Tell all data processes. Raises ValueError for networks that are none."""
        self._known.follow(path)
        self.paths[path.family] = path
        self._numbers[path.family] = next(self._counter)
        for worker in self._serving():
            self._tell(worker, path)

    def begins(self, worker: Worker) -> None:
        """Tell a data process that knows nothing yet, and others what it finds out."""
        worker.learned = partial(self._learned, worker)
        for path in self.paths.values():
            self._tell(worker, path)
        for found in learned.pairs(self._known):
            if found.family in self._numbers:
                worker.send(Learned(self._numbers[found.family], found))

    def know(self, found: PairsHandedOver) -> None:
        """Remember what data processes know, whoever has told them."""
        learned.know(self._known, found)

    def settled(self, family: IPFamily) -> None:
        """All that is asked for is served: without a way back of our own, the one before is for those who use it."""
        if family not in self.paths:
            self.follow(ReturnPath(family, "no Service has asked for clients' addresses"))
        if not self._owners(family):
            for worker in self._serving():
                worker.send(LetGo(family))

    def release(self) -> None:
        """Have data processes hold nothing from now on: what this process has is to go with it."""
        self._released = True
        for worker in self._serving():
            for family in IPFamily:
                worker.send(Keep(family))

    def _learned(self, by: Worker, message: Learned) -> None:
        """Have the others know it, too. What one has found out with an earlier path is not so any more."""
        if message.number == self._numbers.get(message.pairs.family):
            self.know(message.pairs)
            for worker in self._serving():
                if worker is not by:
                    worker.send(message)

    def _tell(self, worker: Worker, path: ReturnPath) -> None:
        worker.send(FollowReturnPath(path, self._numbers[path.family]))
        owners = () if self._released else self._owners(path.family)
        if owners:
            worker.send(Keep(path.family), owners)
