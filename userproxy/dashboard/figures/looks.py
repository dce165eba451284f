"""What a look at a running proxy has found, as values. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from userproxy.dashboard.figures.rates import Item

_SERVICE_PORT: Final = re.compile(r"([-a-z0-9.]{1,253})/([-a-z0-9.]{1,253})/([-a-z0-9]{0,63})/(TCP|UDP|SCTP)")


class ServicePort(NamedTuple):
    """A port of a Service, as the page names it."""

    namespace: str
    name: str
    port: str
    protocol: str

    @classmethod
    def parse(cls, text: str) -> "ServicePort | None":
        """The service port of the key `text`; None if that is no key."""
        found = _SERVICE_PORT.fullmatch(text)
        return None if found is None else cls(*found.groups())

    @property
    def key(self) -> str:
        """As :func:`userproxy.dashboard.figures.rates.service_key` has it."""
        return "/".join(self)

    @property
    def query(self) -> dict[str, str]:
        """The parameters by which the admin API is asked about it. They say nothing of the port's name."""
        return {"namespace": self.namespace, "service": self.name, "protocol": self.protocol}

    def has(self, item: Mapping[str, Any]) -> bool:
        """Whether a portal, connection or decision is of this port; endpoints do not say their protocol."""
        return bool(item["port"] == self.port and item.get("protocol", self.protocol) == self.protocol)


class Want(NamedTuple):
    """What a tab shows: one service port, or all of them if it is None.

    `served` is whether decisions about clients who were served at once are shown as well, `connections` whether
    connections are.
    """

    subject: ServicePort | None = None
    served: bool = False
    connections: bool = False


class Detail(NamedTuple):
    """One service port's picture: endpoints with their rates, portals, and by which of these which clients come."""

    endpoints: Mapping[str, Item]
    portals: Sequence[Item]
    paths: Sequence[Item]


class Look(NamedTuple):
    """All that is known at one moment. `trouble` is a sentence if the proxy could not be asked: all else is older then.

    `number` counts looks, `time` is Unix time, and `seconds` how long after the look before it was. `drains` and
    `faults` are those that were asked for, where that may be. `successions` are those of the last minutes, see
    :mod:`userproxy.dashboard.successions`. `connections` are by subject, as they were at their last
    reading.
    """

    number: int = 0
    time: float = 0.0
    seconds: float = 0.0
    trouble: str = ""
    services: Mapping[str, Item] = {}
    status: Item | None = None
    problems: Sequence[Item] = ()
    drains: Sequence[Item] = ()
    faults: Sequence[Item] = ()
    successions: Sequence[Item] = ()
    details: Mapping[ServicePort, Detail] = {}
    connections: Mapping[ServicePort | None, Mapping[int, Item]] = {}
