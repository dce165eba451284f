"""The executor: performs plans, remembers what there is, and says what is wrong."""

from collections.abc import Mapping

import structlog

from userproxy.errors import KernelToolError, ObjectError, PortUnavailableError
from userproxy.model import PortalBinding, Problem, ProblemKind, ServiceName, ServicePort, ServicePortName, ServiceState
from userproxy.proxier.plan import (
    Action,
    Actual,
    ClaimNodePort,
    CloseListener,
    Granted,
    OpenListener,
    ReleaseNodePort,
    SyncPortals,
    UpdateRoute,
    bindings,
    grant_portals,
    plan,
    plan_routes,
)
from userproxy.proxier.seams import Claims, Forwarding, PortalDriver, Source
from userproxy.routing.services import service_ports

log = structlog.get_logger()


class Proxier:
    """Keeps listeners, balancers and portals as the source wants them, one :meth:`sync` at a time."""

    def __init__(
        self,
        source: Source,
        forwarding: Forwarding,
        portals: PortalDriver,
        claims: Claims,
        proxy_name: str | None = None,
    ) -> None:
        self._source = source
        self._forwarding = forwarding
        self._portals = portals
        self._claims = claims
        self._proxy_name = proxy_name
        self._names: dict[ServiceName, tuple[ServicePortName, ...]] = {}
        self._wanted: dict[ServicePortName, ServicePort] = {}
        self._left_out: dict[ServiceName, tuple[Problem, ...]] = {}
        self._granted = Granted({}, ())
        self._actual = Actual()
        self._preferred: Mapping[ServicePortName, int] | None = None
        self._problems: frozenset[Problem] = frozenset()
        self._refused: tuple[Problem, ...] = ()
        self._settled = False

    @property
    def problems(self) -> frozenset[Problem]:
        """What is wanted and not served, as of the last sync."""
        return self._problems

    @property
    def programmed(self) -> tuple[PortalBinding, ...]:
        """The bindings that the portal driver has confirmed."""
        return self._actual.programmed or ()

    async def sync(self, *, verify: bool) -> bool:
        """Bring what there is in line with the source; `verify` reads the portals back even if nothing changed.

        True if the portals stand as they should. What one service port cannot have (a taken port, say)
        is logged, kept in `problems` and tried again by the next sync; it does not fail the others.
        """
        changed: list[ServicePortName] = []
        reshaped = False
        for service, state in self._source.take_changes().items():
            reshaped |= self._take(service, state)
            changed += self._names.get(service, ())
        if self._settled and not reshaped and not verify:
            actions: tuple[Action, ...] = plan_routes(self._wanted, changed, self._actual)
            for action in actions:
                await self._perform(action)
        else:
            if reshaped:
                self._granted = grant_portals(self._wanted.values())
            self._settled = False
            try:
                actions = await self._converge(verify=verify)
            except (KernelToolError, ObjectError) as error:
                text = "Portals could not be synced; the last good ones stand"
                log.error(text, portals=self._portals.name, reason=str(error))
                return False
            finally:
                self._report()
                self._forwarding.recount_descriptors()
            self._settled = True
        service_port_count = len(self._actual.local_ports)
        log.debug("Synced", v=2, service_ports=service_port_count, actions=len(actions), problems=len(self._problems))
        return True

    async def _converge(self, *, verify: bool) -> tuple[Action, ...]:
        """Compare everything with everything, and act. Raises KernelToolError and ObjectError."""
        if self._preferred is None:
            self._preferred = await self._portals.local_ports()
        actions = plan(self._wanted, self._granted, self._actual, self._preferred, verify=verify)
        self._refused = ()
        for action in actions:
            try:
                await self._perform(action)
            except PortUnavailableError as error:
                self._refused += _refusal(action, error)
        return actions

    def _take(self, service: ServiceName, state: ServiceState | None) -> bool:
        """Take over a changed Service. True if more than endpoints and affinity are new."""
        before = [_shape(self._wanted.pop(name)) for name in self._names.pop(service, ())]
        left_out = self._left_out.pop(service, ())
        if state is None:
            return True
        routed = service_ports(state, self._proxy_name)
        if routed.skipped is not None:
            log.debug("Service skipped", v=3, service=str(service), reason=routed.skipped)
        self._names[service] = tuple(port.name for port in routed.ports)
        self._wanted.update((port.name, port) for port in routed.ports)
        if routed.left_out:
            self._left_out[service] = routed.left_out
        return before != [_shape(port) for port in routed.ports] or left_out != routed.left_out

    async def _perform(self, action: Action) -> None:
        actual = self._actual
        match action:
            case OpenListener(name, preferred_port):
                actual.local_ports[name] = self._forwarding.open(name, preferred_port)
                log.debug("Service port added", v=1, service_port=str(name), local_port=actual.local_ports[name])
            case ClaimNodePort(protocol, port):
                self._claims.claim(protocol, port)
                actual.node_ports.add((protocol, port))
            case UpdateRoute(snapshot):
                if snapshot.name in actual.local_ports:
                    self._forwarding.update(snapshot)
                    actual.snapshots[snapshot.name] = snapshot
                    log.debug(
                        "Endpoints",
                        v=3,
                        service_port=str(snapshot.name),
                        endpoints=" ".join(map(str, snapshot.endpoints)),
                    )
            case SyncPortals():
                wanted = bindings(self._granted, actual)
                await self._portals.sync(wanted)
                actual.programmed = wanted
            case CloseListener(name):
                self._forwarding.close(name)
                del actual.local_ports[name]
                actual.snapshots.pop(name, None)
                log.debug("Service port removed", v=1, service_port=str(name))
            case ReleaseNodePort(protocol, port):
                self._claims.release(protocol, port)
                actual.node_ports.discard((protocol, port))

    def _report(self) -> None:
        left_out = (problem for problems in self._left_out.values() for problem in problems)
        current = frozenset((*self._granted.conflicts, *left_out, *self._refused))
        for text in sorted(problem.text for problem in current - self._problems):
            log.warning(text)
        for text in sorted(problem.text for problem in self._problems - current):
            log.info("No longer so", problem=text)
        self._problems = current


def _shape(service_port: ServicePort) -> tuple[object, ...]:
    """What rules and claims depend on."""
    return service_port.name, service_port.portals, service_port.created


def _refusal(action: Action, error: PortUnavailableError) -> tuple[Problem, ...]:
    match action:
        case ClaimNodePort(protocol, port, name):
            text = f"{name}: node port {port} ({protocol}) is not served: {error}"
        case OpenListener(name):
            text = f"{name}: not served: {error}"
        case _:
            raise error
    return (Problem(name.service, ProblemKind.PORT_CONFLICT, text),)
