"""Clients of Services without endpoints who are held until there is one."""

from typing import Final

from msgspec import Struct

from userproxy.model.cluster import ServicePortName

MOST_HELD: Final = 500
"""So many clients of a service port are held on a node; the next one is refused."""


class HeldClients(Struct, frozen=True, order=True, gc=False):
    """The clients of a service port who are held `now`, and how many were `ever` held."""

    service_port: ServicePortName
    now: int
    ever: int
