"""What is wanted and not served, as it stands now; whatever comes or goes is logged once."""

from collections.abc import Collection, Hashable
from typing import Final

import structlog

from userproxy.errors import OutOfDescriptorsError, PortUnavailableError
from userproxy.model import IPFamily, Problem, ProblemKind, ServicePortName
from userproxy.proxier.plan import Action, ClaimPort, OpenListener

log = structlog.get_logger()

_MOST_ALIKE: Final = 5


class Problems:
    """Problems by what they are about, so that a change costs what it concerns."""

    def __init__(self, family: IPFamily) -> None:
        self._family = family
        self._found: dict[Hashable, tuple[Problem, ...]] = {}
        self._before: dict[Hashable, tuple[Problem, ...]] = {}
        """Of what has changed since the log was last told: what it was told."""
        self.told: frozenset[Problem] = frozenset()
        """All that the log was last told of."""

    def put(self, about: Hashable, problems: tuple[Problem, ...]) -> None:
        """These, and no others, are the problems of `about` now."""
        found = self._found.get(about, ())
        if problems == found:
            return
        self._before.setdefault(about, found)
        if problems:
            self._found[about] = problems
        else:
            del self._found[about]

    def tell(self) -> None:
        """Log what is new, and what is no longer so."""
        if not self._before:
            return
        before, self._before = self._before, {}
        known = {problem for problems in before.values() for problem in problems}
        current = {problem for about in before for problem in self._found.get(about, ())}
        texts, more = _shown(current - known)
        for text in texts:
            log.warning(text, family=self._family)
        if more:
            text = "More ports are not served, because the limit of open files is too low for so many Services"
            log.warning(text, family=self._family, more=more)
        texts, more = _shown(known - current)
        for text in texts:
            log.info("No longer so", problem=text, family=self._family)
        if more:
            log.info("More ports are served, as descriptors are left for them", family=self._family, more=more)
        self.told = frozenset(problem for problems in self._found.values() for problem in problems)


def _shown(problems: Collection[Problem]) -> tuple[list[str], int]:
    """What to log of each problem, and how many more ports lack a descriptor: there may be thousands, all for one."""
    crowded = sorted(problem.text for problem in problems if problem.kind is ProblemKind.OUT_OF_DESCRIPTORS)
    others = sorted(problem.text for problem in problems if problem.kind is not ProblemKind.OUT_OF_DESCRIPTORS)
    return others + crowded[:_MOST_ALIKE], max(0, len(crowded) - _MOST_ALIKE)


def rules_refused(name: ServicePortName, reason: str, family: IPFamily) -> tuple[Problem, ...]:
    """The node's tools take the rules of others and not those of a service port."""
    text = f"{name}: its portals are not served over {family}, because their rules are refused: {reason}"
    return (Problem(name.service, ProblemKind.PORTALS_REFUSED, text),)


def action_refused(action: Action, error: PortUnavailableError, family: IPFamily) -> tuple[Problem, ...]:
    """A port that `action` needs cannot be had. Raises `error` where no action needs one."""
    crowded = isinstance(error, OutOfDescriptorsError)
    kind = ProblemKind.OUT_OF_DESCRIPTORS if crowded else ProblemKind.PORT_CONFLICT
    match action:
        case ClaimPort(claim, portal, name):
            text = f"{name}: {portal} ({claim.protocol}) is not served over {family}: {error}"
            return (Problem(name.service, kind, text, here=True),)
        case OpenListener(listener):
            text = f"{listener}: not served: {error}"
            return (Problem(listener.service_port.service, kind, text, here=True),)
        case _:
            raise error
