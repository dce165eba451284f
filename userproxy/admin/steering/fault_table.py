"""The faults that have been asked for, as long as they are in force."""

import time
from collections.abc import Callable
from itertools import count
from typing import Final

from msgspec import structs

from userproxy.errors import UserproxyError
from userproxy.model.faults import MOST_FAULTS, Fault
from userproxy.model.steering import Steering

NOT_ALLOWED: Final = "faults are not allowed here: start userproxy with --allow-faults"


class TooManyFaultsError(UserproxyError):
    """There is no room for another fault."""


class FaultTable:
    """Faults by their ids, which `steering` has connections suffer. They end with this process.

    `may_change` says whether there may be any.
    """

    def __init__(self, steering: Steering, may_change: Callable[[], bool] = lambda: False) -> None:
        self._steering = steering
        self._may_change = may_change
        self._numbers = count(1)

    @property
    def may_change(self) -> bool:
        """Whether there may be any."""
        return self._may_change()

    def current(self) -> tuple[Fault, ...]:
        """Those in force, by id. The data plane ends each in time by itself."""
        now = time.monotonic()
        return tuple(fault for fault in self._steering.faults if fault.until > now)

    def add(self, fault: Fault) -> Fault:
        """Put a fault in force; returns it with its id. Raises TooManyFaultsError."""
        faults = self.current()
        if len(faults) >= MOST_FAULTS:
            raise TooManyFaultsError(f"{MOST_FAULTS} faults are in force already: clear some first")
        added = structs.replace(fault, id=next(self._numbers))
        self._steering.put_faults((*faults, added))
        return added

    def clear(self, number: int | None = None) -> tuple[Fault, ...]:
        """End the fault with an id, or all; returns those that were in force."""
        faults = self.current()
        ended = tuple(fault for fault in faults if number in (None, fault.id))
        if ended:
            self._steering.put_faults(tuple(fault for fault in faults if fault not in ended))
        return ended
