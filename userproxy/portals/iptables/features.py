"""Parts of the kernel's packet filter that some kernels lack: what the rules are without them, and which these are.

That is found out by rules in a chain that nothing leads to.
"""

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

import structlog
from msgspec import Struct, structs

from userproxy.portals.iptables.chains import FILTER, PROBE, JumpRule, Rule
from userproxy.portals.iptables.changes import Edit, TableChange
from userproxy.portals.iptables.writers.restore import ConflictError, Writer

log = structlog.get_logger()

_REFUSE: Final = "-j REJECT"
_DROP: Final = "-j DROP"

_AGAIN_AFTER: Final = 300.0
"""Seconds after which what was missing is looked for again: somebody may have loaded the module."""


class Feature(Struct, frozen=True):
    """A match or target: text that rules with it contain, one such rule of the filter table, and the cost of its lack.

    `modules` are those of the kernel that have it, `loss` is what does not work without them.
    """

    mark: str
    example: str
    modules: str
    loss: str


REJECT = Feature(
    _REFUSE,
    "-p tcp -j REJECT --reject-with tcp-reset",
    "ipt_REJECT, ip6t_REJECT",
    "clients of Services that have no endpoints get no answer instead of a refusal",
)
ADDRTYPE = Feature(
    "-m addrtype",
    "-m addrtype --dst-type LOCAL -j ACCEPT",
    "xt_addrtype",
    "node ports are not served, and UDP listeners are open beside their portals",
)
FEATURES: Final = (REJECT, ADDRTYPE)


def adapted(rules: Iterable[Rule], missing: Collection[Feature]) -> tuple[Rule, ...]:
    """The rules that a kernel without `missing` takes. What would be refused is dropped, rather than let past."""
    silent = (_silenced(rule) if REJECT in missing else rule for rule in rules)
    return tuple(rule for rule in silent if not any(feature.mark in rule.spec for feature in missing))


def _silenced(rule: Rule) -> Rule:
    before, refuses, _ = rule.spec.partition(_REFUSE)
    return structs.replace(rule, spec=f"{before}{_DROP}") if refuses else rule


def adapted_jumps(jumps: Sequence[JumpRule], missing: Collection[Feature]) -> tuple[JumpRule, ...]:
    """The jumps that a kernel without `missing` takes."""
    return tuple(jump for jump in jumps if not any(feature.mark in jump.rule.spec for feature in missing))


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
