"""What the proxier logs about rules and endpoints."""

from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from userproxy.addresses import IPFamily
from userproxy.model import Endpoint, ListenerName, Portal

log = structlog.get_logger()

_MOST_LISTED: Final = 5


class Listed:
    """Endpoints or portals, formatted only if the log shows them."""

    __slots__ = ("_between", "_items")

    def __init__(self, items: Sequence[Endpoint | Portal], between: str = " ") -> None:
        self._items = items
        self._between = between

    def __repr__(self) -> str:
        return self._between.join(map(str, self._items))


class RulesLog:
    """Logs when rules were written: at info level the first time, and where rules were repaired."""

    def __init__(self, family: IPFamily) -> None:
        self._family = family
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
