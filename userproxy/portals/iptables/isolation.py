"""Finds the service ports whose rules a table refuses, so that all others can be written."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from msgspec import Struct

from userproxy.errors import KernelToolError
from userproxy.model import ServicePortName
from userproxy.portals.iptables.chains import CHAINS
from userproxy.portals.iptables.changes import Edit, Group, Present
from userproxy.portals.iptables.parser import canonical
from userproxy.portals.iptables.writers.restore import ConflictError

MOST_RUNS: Final = 64
"""Writes that a search may take: one refused service port among 10,000 takes less than 20, if no line is named."""

SECONDS: Final = 20.0

_FIRST_WAIT: Final = 25.0
_LONGEST_WAIT: Final = 900.0

_OURS: Final = frozenset(chain for chains in CHAINS.values() for chain in chains)

Groups = Mapping[ServicePortName, Group]
Write = Callable[[Groups], None]
"""Makes the rules those of the groups and no others, or raises ConflictError."""


class _Refusal(Struct):
    rules: tuple[object, ...]
    reason: str
    wait: float
    until: float


class Refusals:
    """The service ports whose rules were refused, and when each may be tried again.

    That is when its rules are others, or at a verification: soon at first, after a quarter of an hour in the end.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refused: dict[ServicePortName, _Refusal] = {}

    @property
    def reasons(self) -> dict[ServicePortName, str]:
        """Why each is refused that is refused now."""
        return {name: refusal.reason for name, refusal in self._refused.items()}

    def refuse(self, name: ServicePortName, group: Group, reason: str) -> None:
        """These rules were refused, or there can be none at all, which nothing but other rules can change."""
        before = self._refused.get(name)
        if before is None or before.rules != tuple(group):
            before = _Refusal(tuple(group), reason, _FIRST_WAIT / 2, 0.0)
        before.wait = min(2 * before.wait, _LONGEST_WAIT)
        before.until = self._clock() + before.wait
        self._refused[name] = before

    def admitted(self, groups: Groups, *, verify: bool) -> Groups:
        """The groups that are to be tried, or stand already."""
        for name in [name for name in self._refused if name not in groups]:
            del self._refused[name]
        now = self._clock()
        left_out = {
            name
            for name, refusal in self._refused.items()
            if tuple(groups[name]) == refusal.rules and not (refusal.rules and verify and now >= refusal.until)
        }
        return {name: group for name, group in groups.items() if name not in left_out} if left_out else groups

    def accepted(self, names: Collection[ServicePortName]) -> None:
        """Note that the rules of these stand."""
        for name in [name for name in self._refused if name in names]:
            del self._refused[name]


class Search:
    """One search among `groups`, the first write of which was refused.

    `write` is tried with more and more of them. `refuse` is called for each that is refused on its own.
    """

    def __init__(
        self, write: Write, refuse: Callable[[ServicePortName, Group, str], None], clock: Callable[[], float]
    ) -> None:
        self._write = write
        self._refuse = refuse
        self._clock = clock
        self._deadline = clock() + SECONDS
        self._runs = 0
        self._accepted: dict[ServicePortName, Group] = {}

    def run(self, groups: Groups, standing: Collection[ServicePortName]) -> Groups:
        """The groups that are not refused, which stand now. Those that are `standing` are kept at all times.

        Raises KernelToolError where a table refuses everything, or so much that it is not found within bounds.
        """
        self._accepted = {name: group for name, group in groups.items() if name in standing}
        self._try(self._accepted)
        self._add({name: group for name, group in groups.items() if name not in standing})
        return self._accepted

    def _add(self, groups: Groups) -> None:
        """Accept or refuse each of `groups`."""
        suspects: dict[ServicePortName, Group] = {}
        left = dict(groups)
        while left:
            try:
                self._try({**self._accepted, **left})
            except ConflictError as error:
                if not (named := _named(error.culprits, left)):
                    break
                suspects |= {name: left.pop(name) for name in named}
            else:
                self._accepted |= left
                left = {}
        self._split(left)
        for name, group in suspects.items():  # each on its own: programs do not always count their lines right
            self._split({name: group})

    def _split(self, groups: Groups) -> None:
        """Accept or refuse each of `groups`, of which one at least is refused."""
        if not groups:
            return
        if len(groups) == 1:
            ((name, group),) = groups.items()
            self._judge(name, group)
            return
        items = list(groups.items())
        first, second = dict(items[: len(items) // 2]), dict(items[len(items) // 2 :])
        if self._accepts(first):
            self._split(second)
            return
        self._split(first)
        if not self._accepts(second):
            self._split(second)

    def _accepts(self, groups: Groups) -> bool:
        try:
            self._try({**self._accepted, **groups})
        except ConflictError:
            return False
        self._accepted |= groups
        return True

    def _judge(self, name: ServicePortName, group: Group) -> None:
        try:
            self._try({**self._accepted, name: group})
        except ConflictError as error:
            self._refuse(name, group, str(error))
        else:
            self._accepted[name] = group

    def _try(self, groups: Groups) -> None:
        self._runs += 1
        if self._runs > MOST_RUNS or self._clock() > self._deadline:
            raise KernelToolError(f"more rules are refused than could be found in {self._runs - 1} tries")
        self._write(groups)


def standing(present: Present, groups: Groups) -> set[ServicePortName]:
    """Those of `groups` all of whose rules are there."""
    there = {(chain, line) for chains in present.values() for chain, lines in chains.items() for line in lines}
    wanted = {(rule.chain, rule.spec) for group in groups.values() for rule in group}
    there |= {(chain, canonical(line)) for chain, line in there - wanted if chain in _OURS}
    return {name for name, group in groups.items() if all((rule.chain, rule.spec) in there for rule in group)}


def _named(culprits: Sequence[Edit], groups: Groups) -> list[ServicePortName]:
    """Those of `groups` that have one of the rules."""
    guilty = {(edit.chain, edit.spec) for edit in culprits}
    if not guilty:
        return []
    return [name for name, group in groups.items() if any((rule.chain, rule.spec) in guilty for rule in group)]
