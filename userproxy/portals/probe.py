"""Finds out which parts of the packet filter this kernel lacks, by rules in a chain that nothing leads to."""

import time
from collections.abc import Callable
from typing import Final

import structlog

from userproxy.portals.changes import Edit, TableChange
from userproxy.portals.features import FEATURES, Feature
from userproxy.portals.rules import FILTER, PROBE
from userproxy.portals.writer import ConflictError, Writer

log = structlog.get_logger()

_AGAIN_AFTER: Final = 300.0
"""Seconds after which what was missing is looked for again: somebody may have loaded the module."""


class Probe:
    """Looks for features with `writer`, and says once what one that is missing costs."""

    def __init__(self, writer: Writer, label: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._writer = writer
        self._label = label
        self._clock = clock
        self._due = 0.0
        self.missing: frozenset[Feature] = frozenset()

    @property
    def due(self) -> bool:
        """Whether something is missing, and has not been looked for of late."""
        return bool(self.missing) and self._clock() >= self._due

    def look(self) -> bool:
        """Look for all features; whether that has changed what is known to be missing. Blocking.

        Raises KernelToolError where iptables cannot be used at all.
        """
        self._due = self._clock() + _AGAIN_AFTER
        if not self._accepts("-j ACCEPT"):
            return False  # which says nothing of the features
        found = frozenset(feature for feature in FEATURES if not self._accepts(feature.example))
        for feature in found - self.missing:
            log.warning(
                f"This kernel refuses rules with {feature.mark}: {feature.loss}",
                tables=self._label,
                modules=feature.modules,
            )
        for feature in self.missing - found:
            log.info(f"This kernel takes rules with {feature.mark} now", tables=self._label)
        changed = found != self.missing
        self.missing = found
        return changed

    def _accepts(self, spec: str) -> bool:
        try:
            self._writer.apply((TableChange(FILTER, (PROBE,), (Edit("-A", PROBE, spec),)),))
        except ConflictError:
            return False
        self._writer.apply((TableChange(FILTER, (PROBE,), drop=(PROBE,)),))
        return True
