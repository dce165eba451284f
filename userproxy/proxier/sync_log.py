"""What a reader of the log is told of a proxier's work."""

from collections.abc import Mapping, Sequence

import structlog

from userproxy.model import Endpoint, IPFamily, Portal

log = structlog.get_logger()


class Listed:
    """Endpoints or portals as the log shows them, written only if it does."""

    __slots__ = ("_between", "_items")

    def __init__(self, items: Sequence[Endpoint | Portal], between: str = " ") -> None:
        self._items = items
        self._between = between

    def __repr__(self) -> str:
        return self._between.join(map(str, self._items))


class RulesStory:
    """Tells when rules were written: the first time, and where nobody asked for it, everybody sees it."""

    def __init__(self, family: IPFamily) -> None:
        self._family = family
        self._began = False

    def written(
        self, counts: Mapping[str, int], seconds: float, *, service_ports: int, removed: int, differed: bool
    ) -> None:
        """A sync of the portals has ended, after `seconds`, with so many rules by table.

        `service_ports` are those that were to have other rules, `removed` those that were to have none; `differed` is
        whether the rules that stood were others than they should have been.
        """
        if not counts and not differed:
            return  # there are no rules with this driver
        known = {"family": self._family.value, "rules": sum(counts.values()), "seconds": round(seconds, 3)}
        if not self._began and differed:
            self._began = True
            log.info("Rules written", service_ports=service_ports, **known)
        elif service_ports or removed:
            log.debug("Rules written", v=1, service_ports=service_ports, removed=removed, **known)
        elif differed:
            log.info("Rules repaired, because something else had changed them", **known)
