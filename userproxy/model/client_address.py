"""Whose address a backend sees: what is asked for, and what this host can do for it."""

from enum import StrEnum
from typing import Final

from msgspec import Struct

from userproxy.addresses import IPFamily

OWN_PORTS: Final = (61_000, 65_535)
"""Source ports of connections and flows from clients' addresses: above the default ``net.ipv4.ip_local_port_range``, so
that clients do not use them themselves, and a bridge can tell answers to them from others."""

PODS_PORTS: Final = (OWN_PORTS[0], 63_999)
"""Those of OWN_PORTS that are for Pods of this node."""

OTHERS_PORTS: Final = (64_000, OWN_PORTS[1])
"""Those for clients from elsewhere, for whom another node may make connections from PODS_PORTS likewise."""


class ClientAddress(StrEnum):
    """Whose address a connection to a backend comes from (``--client-address``).

    AUTO is the client's wherever the answer comes back through this node, KEEP also where that is not known, NODE
    never.
    """

    AUTO = "auto"
    KEEP = "keep"
    NODE = "node"


class ProxyProtocol(StrEnum):
    """A version of the PROXY protocol's header (haproxy.org, proxy-protocol.txt)."""

    V1 = "v1"
    V2 = "v2"


class DirectNetwork(Struct, frozen=True, order=True, gc=False):
    """A network or an address that this host reaches without a gateway, by one interface.

    ``of_pods`` is whether Pods of this node are there, rather than other hosts. Behind a bridge (``is_bridge``)
    answers between two of its Pods reach this host only where ``answers_rise``: those to ports of OWN_PORTS.
    """

    network: str
    interface: str
    of_pods: bool = False
    is_bridge: bool = False
    answers_rise: bool = False


class ReturnPath(Struct, frozen=True, gc=False):
    """Whether answers to a client's address come back to userproxy, in one address family.

    Where they cannot, ``problem`` says why, and every connection is made from the node's address. ``networks`` are
    those of the host's routing table.
    """

    family: IPFamily
    problem: str = ""
    networks: tuple[DirectNetwork, ...] = ()
