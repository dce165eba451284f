"""Answers for the control plane of this process: all its families, and the source of Services."""

from collections.abc import Callable, Collection, Sequence

from userproxy.addresses import family_of
from userproxy.model import Endpoint, Problem, ServicePortName
from userproxy.model.sources import WatchReport
from userproxy.proxier.family.proxy import FamilyProxy
from userproxy.proxier.inspect.explanation import Explanation
from userproxy.proxier.inspect.reports import EndpointReport, FamilyDifferences, FamilyReport, ServicePortReport


class LocalControlPlane:
    """What :class:`~userproxy.proxier.inspect.reports.ControlPlane` says, of these `families`, IPv4's first.

    `watches` and `object_problems` are asked of the source; `node_problems` are those of no family's portals.
    """

    def __init__(
        self,
        families: Sequence[FamilyProxy],
        watches: Callable[[], tuple[WatchReport, ...]],
        object_problems: Callable[[], tuple[str, ...]],
        node_problems: Callable[[], frozenset[Problem]] = frozenset,
    ) -> None:
        self._families = families
        self.watches = watches
        self.object_problems = object_problems
        self._node_problems = node_problems

    def names(self) -> Collection[ServicePortName]:
        """The service ports of all families, in no order."""
        if len(self._families) == 1:
            return self._families[0].service_ports
        return set[ServicePortName]().union(*(family.service_ports for family in self._families))

    def service_ports(self, name: ServicePortName) -> tuple[ServicePortReport, ...]:
        """A service port in each family that has it."""
        reports = (family.service_port(name) for family in self._families)
        return tuple(report for report in reports if report is not None)

    def endpoints(self, name: ServicePortName) -> tuple[EndpointReport, ...]:
        """The endpoints of a service port, of all families."""
        return tuple(report for family in self._families for report in family.endpoints(name))

    async def explain(self, name: ServicePortName, client: str, to: Endpoint | None) -> Explanation | None:
        """What becomes of a client's next connection to a portal of a service port."""
        kind = family_of(client)
        family = next((each for each in self._families if each.family is kind), None)
        return None if family is None else await family.explain(name, client, to)

    def problems(self) -> frozenset[Problem]:
        """What is wanted and not served."""
        return self._node_problems().union(*(family.problems for family in self._families))

    async def differences(self) -> tuple[FamilyDifferences, ...]:
        """How the portals of each family that is served differ from those that are wanted."""
        return tuple([await family.differences() for family in self._families if family.status.served])

    def families(self) -> tuple[FamilyReport, ...]:
        """Whether the portals of each family stand."""
        return tuple(family.status for family in self._families)
