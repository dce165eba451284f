"""Performs the actions of plans, one by one, and logs what was done to listeners, endpoints and rules."""

from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from userproxy.addresses import IPFamily
from userproxy.frequent_log import FrequentLog
from userproxy.model import Endpoint, ListenerName, ServicePortName, Snapshot
from userproxy.proxier.interfaces import Claims, Forwarding, Nodes
from userproxy.proxier.plan import (
    Action,
    Actual,
    ClaimPort,
    CloseListener,
    OpenListener,
    ReleasePort,
    UpdateRoute,
)
from userproxy.proxier.wanted import Wanted

log = structlog.get_logger()

_MOST_LISTED: Final = 5


class Executor:
    """Performs actions, and keeps `actual` in step with them. `wanted` and `nodes` are only for the log."""

    def __init__(self, actual: Actual, wanted: Wanted, forwarding: Forwarding, claims: Claims, nodes: Nodes) -> None:
        self._actual = actual
        self._wanted = wanted
        self._forwarding = forwarding
        self._claims = claims
        self._nodes = nodes
        self._loop_log = LoopLog()
        self._log = FrequentLog()

    def perform(self, action: Action) -> None:
        """Do what `action` says. Raises PortUnavailableError if it needs a port that cannot be had."""
        actual = self._actual
        match action:
            case OpenListener():
                self._open(action)
            case ClaimPort(claim, _, owner):
                if claim not in actual.holders:
                    self._claims.claim(claim.ip, claim.protocol, claim.port)
                actual.account(claim, owner)
            case UpdateRoute():
                self.update(action)
            case CloseListener(name):
                self._close(name)
            case ReleasePort(claim, owner):
                if actual.discharge(claim, owner):
                    self._claims.release(claim.ip, claim.protocol, claim.port)

    def _open(self, action: OpenListener) -> None:
        local_port = self._forwarding.open(action.name, action.preferred_port, action.verdict)
        self._actual.local_ports[action.name] = local_port
        if self._log.shows_debug:
            portals = Claimed(self._wanted, action.name.service_port)
            name = str(action.name)
            self._log.debug("Listener opened", v=1, service_port=name, local_port=local_port, portals=portals)

    def _close(self, name: ListenerName) -> None:
        self._forwarding.close(name)
        del self._actual.local_ports[name]
        self._actual.snapshots.pop(name, None)
        self._loop_log.forget(name)
        if self._log.shows_debug:
            self._log.debug("Listener closed", v=1, service_port=str(name))

    def update(self, action: UpdateRoute) -> None:
        """Hand out a route, if its listener is open."""
        snapshot = action.snapshot
        if snapshot.listener not in self._actual.local_ports:
            return
        self._loop_log.left_out(snapshot.listener, action.looping, presumed=self._nodes.presuming)
        self.renew(snapshot)

    def renew(self, snapshot: Snapshot) -> None:
        """Hand out a route of a listener that is open."""
        self._forwarding.update(snapshot)
        self._actual.snapshots[snapshot.listener] = snapshot
        if self._log.shows_debug:
            name, listed = str(snapshot.listener), Listed(snapshot.endpoints)
            self._log.debug("Endpoints", v=3, service_port=name, verdict=snapshot.verdict, endpoints=listed)


class Listed:
    """Endpoints, formatted only if the log shows them."""

    __slots__ = ("_items",)

    def __init__(self, items: Sequence[Endpoint]) -> None:
        self._items = items

    def __repr__(self) -> str:
        return " ".join(map(str, self._items))


class Claimed:
    """The portals of a service port, found and formatted only if the log shows them."""

    __slots__ = ("_name", "_wanted")

    def __init__(self, wanted: Wanted, name: ServicePortName) -> None:
        self._wanted = wanted
        self._name = name

    def __repr__(self) -> str:
        return ", ".join(map(str, self._wanted.portals(self._name)))


class RulesLog:
    """Logs when rules were written: at info level the first time, and where rules were repaired."""

    def __init__(self, family: IPFamily, *, are_rules: bool = True) -> None:
        self._family = family
        self._are_rules = are_rules
        self._began = False

    def written(
        self,
        counts: Mapping[str, int],
        seconds: float,
        *,
        service_ports: int,
        removed: int,
        differed: bool,
        changed_by: str = "",
    ) -> None:
        """A sync of the portals has ended after `seconds`; `counts` is how many rules each table has now.

        `service_ports` is how many service ports were to have other rules, `removed` how many none any more. `differed`
        is whether the rules found were not as they should have been, and `changed_by` is who changed them, where known.
        """
        if not self._are_rules:
            if differed:
                text = "Portals repaired, because something else had changed their routes"
                log.info(text, family=self._family.value, seconds=round(seconds, 3))
            return
        if not counts and not differed:
            return  # this driver has no rules
        fields = {"family": self._family.value, "rules": sum(counts.values()), "seconds": round(seconds, 3)}
        if not self._began and differed:
            self._began = True
            log.info("Rules written", service_ports=service_ports, **fields)
        elif service_ports or removed:
            log.debug("Rules written", v=1, service_ports=service_ports, removed=removed, **fields)
        elif differed:
            text = "Rules repaired, because something else had changed them"
            log.info(text, **({"changed_by": changed_by} if changed_by else {}), **fields)


class LoopLog:
    """Warns once of the endpoints that a listener does not use, because traffic to them would loop."""

    def __init__(self) -> None:
        self._told: dict[ListenerName, tuple[Endpoint, ...]] = {}

    def left_out(self, listener: ListenerName, endpoints: Sequence[Endpoint], *, presumed: bool) -> None:
        """These endpoints, or none, are not used now. `presumed`: not all addresses of Nodes are known yet."""
        if endpoints != self._told.pop(listener, ()) and endpoints:
            listed = ", ".join(map(str, endpoints[:_MOST_LISTED]))
            more = f" and {len(endpoints) - _MOST_LISTED} more" if len(endpoints) > _MOST_LISTED else ""
            may_be = ", or may be one until Nodes are looked up" if presumed else ""
            log.warning(f"{listener}: not used as an endpoint: {listed}{more}; a portal{may_be}, it leads back here")
        if endpoints:
            self._told[listener] = tuple(endpoints)

    def forget(self, listener: ListenerName) -> None:
        """The listener is closed."""
        self._told.pop(listener, None)
