"""A data process's part: it tells of endpoints that fail and of trials, and does what the control process says."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from userproxy.forwarding.ejection.cells import EjectionMemory, ListenerCells
from userproxy.forwarding.sharing import SharingForwarder
from userproxy.model import Endpoint, ListenerName, Snapshot
from userproxy.processes.channel import Channel
from userproxy.processes.ejections.messages import (
    Claimed,
    Eject,
    Failed,
    Failure,
    KnowsEjected,
    Load,
    Loads,
    PassOver,
    Suspect,
    TakeBack,
    ToldOfEjections,
    Tries,
    TriesNot,
    Try,
)
from userproxy.routing.balancer import Balancer
from userproxy.routing.balancers.ejections import TRIAL_SECONDS, Ejected

_WAIT_SECONDS: Final = 0.005
"""How long after one that is told at once failures wait for others that may go with them."""

_MANY: Final = 8
_PAUSE_SECONDS: Final = 0.05
_AT_ONCE: Final = 64
"""After many endpoints in one message comes a pause, and never more than so many are told: who has thousands of
endpoints that fail is to cost others little."""

_LOOK_SECONDS: Final = 0.1
"""How often to look what has become of a trial."""


class EjectionTelling:
    """What the balancers of a data process have decided elsewhere. See :class:`Decider` for what they tell.

    Failures are counted in `memory`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        forwarder: SharingForwarder,
        channel: Callable[[], Channel[Any]],
        memory: EjectionMemory,
    ) -> None:
        self._loop = loop
        self._forwarder = forwarder
        self._channel = channel
        self._memory = memory
        self._cells: dict[ListenerName, ListenerCells] = {}
        self._claimed: list[Claimed] = []
        """What we have ejected and not told yet."""
        self._failures: dict[tuple[ListenerName, Endpoint, bool], str] = {}
        """Why ejected endpoints have failed that is not told yet."""
        self._suspects: dict[tuple[ListenerName, Endpoint], float] = {}
        self._timer: asyncio.Handle | None = None
        self._trials: dict[tuple[ListenerName, Endpoint], tuple[float, Load]] = {}
        """Until when trials are looked after, and what was told last."""
        self._looking: asyncio.TimerHandle | None = None
        forwarder.decide_ejections_elsewhere(self)

    def shut_down(self) -> None:
        """Cancel the timers."""
        for timer in (self._timer, self._looking):
            if timer is not None:
                timer.cancel()

    @property
    def hears(self) -> bool:
        """See :class:`~userproxy.routing.balancers.shared.mirror.Decider`."""
        return self._channel().open

    def cells(self, listener: ListenerName) -> ListenerCells | None:
        """See :class:`~userproxy.routing.balancers.shared.mirror.Decider`."""
        return self._cells.get(listener)

    def ejects(self, listener: ListenerName, ejected: Ejected) -> None:
        """See :class:`~userproxy.routing.balancers.shared.mirror.Decider`."""
        self._claimed.append(Claimed(listener, ejected))
        self._tell_soon()

    def failed(self, listener: ListenerName, endpoint: Endpoint, reason: str, *, by_reset: bool) -> None:
        """See :class:`~userproxy.routing.balancers.shared.mirror.Decider`."""
        self._failures[listener, endpoint, by_reset] = reason
        self._tell_soon()

    def suspected(self, listener: ListenerName, endpoint: Endpoint, until: float) -> None:
        """See :class:`~userproxy.routing.balancers.shared.mirror.Decider`."""
        self._suspects[listener, endpoint] = until
        self._tell_soon()

    def tries(self, listener: ListenerName, endpoint: Endpoint) -> None:
        """See :class:`~userproxy.routing.balancers.shared.mirror.Decider`. One at a time is told of."""
        key = listener, endpoint
        if key in self._trials:
            return
        load = self._load(listener, endpoint)
        self._channel().send(Tries(load))
        self._trials[key] = self._loop.time() + TRIAL_SECONDS, load
        if self._looking is None:
            self._looking = self._loop.call_later(_LOOK_SECONDS, self._look)

    def place(self, snapshot: Snapshot, numbers: Sequence[int]) -> None:
        """Count failures of a snapshot's endpoints in these cells from now on. It is what the forwarder follows now."""
        name = snapshot.listener
        if snapshot.ejection is not None:
            self._cells[name] = ListenerCells(self._memory, dict(zip(snapshot.endpoints, numbers, strict=False)))
        elif self._cells.pop(name, None) is None:
            return
        self._forwarder.share_counts(name, self._cells.get(name))

    def forget(self, listener: ListenerName) -> None:
        """A listener is closed."""
        self._cells.pop(listener, None)

    def forget_cells(self) -> None:
        """Count nowhere until told where: the control process has gone, and the next one numbers cells anew."""
        for name in self._cells:
            self._forwarder.share_counts(name, None)
        self._cells.clear()

    def know(self) -> None:
        """Tell another control process what is ejected."""
        for name, ejected in self._forwarder.ejected().items():
            self._channel().send(KnowsEjected(name, ejected))

    def heard(self, message: ToldOfEjections) -> None:
        """Do what the control process says."""
        match message:
            case PassOver(suspects):
                for listener, endpoint, until in ((each.listener, each.endpoint, each.until) for each in suspects):
                    balancer = self._forwarder.balancer_of(listener)
                    if balancer is not None:
                        balancer.pass_over(endpoint, until)
            case Eject(listener, ejected):
                balancer = self._forwarder.balancer_of(listener)
                self._trials.pop((listener, ejected.endpoint), None)
                if balancer is not None:
                    balancer.eject(ejected)
            case TakeBack(listener, endpoint):
                self._trials.pop((listener, endpoint), None)
                self._mirrored(listener, lambda its: its.take_back(endpoint))
            case Try(listener, endpoint, here):
                self._mirrored(listener, lambda its: its.have_trial(endpoint, here=here))
                if not here:
                    self._channel().send(TriesNot(listener, endpoint))

    def _mirrored(self, listener: ListenerName, do: Callable[[Any], None]) -> None:
        balancer: Balancer | None = self._forwarder.balancer_of(listener)
        if balancer is not None and balancer.mirrored is not None:
            do(balancer.mirrored)

    def _load(self, listener: ListenerName, endpoint: Endpoint) -> Load:
        return Load(listener, endpoint, *self._forwarder.load_of(listener, endpoint))

    def _tell_soon(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_soon(self._tell)

    def _tell(self) -> None:
        claimed, self._claimed = self._claimed[:_AT_ONCE], self._claimed[_AT_ONCE:]
        failures = [
            Failure(self._load(*key[:2]), self._failures.pop(key), key[2]) for key in list(self._failures)[:_AT_ONCE]
        ]
        suspects = [Suspect(*key, self._suspects.pop(key)) for key in list(self._suspects)[:_AT_ONCE]]
        self._timer = None
        if claimed or failures or suspects:
            self._channel().send(Failed(tuple(claimed), tuple(failures), tuple(suspects)))
            pause = _PAUSE_SECONDS if len(claimed) + len(failures) + len(suspects) > _MANY else _WAIT_SECONDS
            self._timer = self._loop.call_later(pause, self._tell)

    def _look(self) -> None:
        """Tell what has come of trials."""
        self._looking = None
        now = self._loop.time()
        for key, (until, before) in list(self._trials.items()):
            load = self._load(*key)
            if load != before:
                self._channel().send(Loads(load))
                self._trials[key] = until, load
            if now >= until:
                del self._trials[key]
        if self._trials:
            self._looking = self._loop.call_later(_LOOK_SECONDS, self._look)
