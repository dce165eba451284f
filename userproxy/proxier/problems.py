"""What is wanted and not served now. Each problem is logged once when it comes and once when it goes."""

from collections.abc import Collection, Hashable
from typing import Final

import structlog

from userproxy.errors import OutOfDescriptorsError, PortUnavailableError
from userproxy.model import IPFamily, Problem, ProblemKind, ServicePortName
from userproxy.proxier.plan import Action, ClaimPort, OpenListener

log = structlog.get_logger()

_MOST_ALIKE: Final = 5


class Problems:
    """Problems by what they are about, so that the cost of a change does not grow with all problems."""

    def __init__(self, family: IPFamily) -> None:
        self._family = family
        self._found: dict[Hashable, tuple[Problem, ...]] = {}
        self._before: dict[Hashable, tuple[Problem, ...]] = {}
        """Of what has changed since `tell`: the problems as they were then."""
        self.told: frozenset[Problem] = frozenset()
        """All problems, as of the last `tell`."""

    def put(self, about: Hashable, problems: tuple[Problem, ...]) -> None:
        """Set the problems of `about`, in place of those that it had."""
        found = self._found.get(about, ())
        if problems == found:
            return
        self._before.setdefault(about, found)
        if problems:
            self._found[about] = problems
        else:
            del self._found[about]

    def of(self, about: Hashable) -> tuple[Problem, ...]:
        """The problems of `about`."""
        return self._found.get(about, ())

    def tell(self) -> None:
        """Log the problems that are new since the last call, and those that are gone."""
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
    """The texts to log, and how many more ports lack a descriptor: there may be thousands, all for one reason."""
    crowded = sorted(problem.text for problem in problems if problem.kind is ProblemKind.OUT_OF_DESCRIPTORS)
    others = sorted(problem.text for problem in problems if problem.kind is not ProblemKind.OUT_OF_DESCRIPTORS)
    return others + crowded[:_MOST_ALIKE], max(0, len(crowded) - _MOST_ALIKE)


def contested(fight: str | None, family: IPFamily) -> tuple[Problem, ...]:
    """Another program undoes what we repair; `fight` says which one, and how often, None if none does."""
    if fight is None:
        return ()
    text = f"the {family} portals of this node are changed again and again by {fight}"
    return (Problem(None, ProblemKind.PORTALS_CONTESTED, text, here=True),)


def portals_refused(
    name: ServicePortName, reason: str, family: IPFamily, *, are_rules: bool = True
) -> tuple[Problem, ...]:
    """The problem of a service port whose rules the node's tools refuse, or at whose portals nobody may listen."""
    text = f"{name}: its portals are not served over {family}, because their rules are refused: {reason}"
    if not are_rules:
        text = f"{name}: not all its portals are served over {family}: {reason}"
    return (Problem(name.service, ProblemKind.PORTALS_REFUSED, text),)


def action_refused(action: Action, error: PortUnavailableError, family: IPFamily) -> tuple[Problem, ...]:
    """The problem of a port that `action` needs and cannot have. Raises `error` for an action that needs none."""
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
