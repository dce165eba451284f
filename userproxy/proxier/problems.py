"""What is wanted and not served, as it stands now; whatever comes or goes is logged once."""

from collections.abc import Hashable

import structlog

from userproxy.errors import PortUnavailableError
from userproxy.model import IPFamily, Problem, ProblemKind, ServicePortName
from userproxy.proxier.plan import Action, ClaimPort, OpenListener

log = structlog.get_logger()


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
        for text in sorted(problem.text for problem in current - known):
            log.warning(text, family=self._family)
        for text in sorted(problem.text for problem in known - current):
            log.info("No longer so", problem=text, family=self._family)
        self.told = frozenset(problem for problems in self._found.values() for problem in problems)


def rules_refused(name: ServicePortName, reason: str, family: IPFamily) -> tuple[Problem, ...]:
    """The node's tools take the rules of others and not those of a service port."""
    text = f"{name}: its portals are not served over {family}, because their rules are refused: {reason}"
    return (Problem(name.service, ProblemKind.PORTALS_REFUSED, text),)


def action_refused(action: Action, error: PortUnavailableError, family: IPFamily) -> tuple[Problem, ...]:
    """A port that `action` needs cannot be had. Raises `error` where no action needs one."""
    match action:
        case ClaimPort(claim, portal, name):
            text = f"{name}: {portal} ({claim.protocol}) is not served over {family}: {error}"
            return (Problem(name.service, ProblemKind.PORT_CONFLICT, text, here=True),)
        case OpenListener(listener):
            text = f"{listener}: not served: {error}"
            return (Problem(listener.service_port.service, ProblemKind.PORT_CONFLICT, text, here=True),)
        case _:
            raise error
