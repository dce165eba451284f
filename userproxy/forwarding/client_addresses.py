"""Whether a connection or flow to an endpoint can be made from the client's own address, for TCP and UDP alike.

What a Service asks for is in its snapshots, what the host can do in a ReturnPath. The decision itself is
:func:`~userproxy.routing.client_address.keeps_client_address`; here it is found out where client and endpoint are.
"""

import errno
import ipaddress
import socket
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from socket import SocketType
from typing import Final

from msgspec import Struct

from userproxy.addresses import family_of, is_loopback, socket_family
from userproxy.forwarding.return_pairs import ReturnPairs
from userproxy.model import (
    ClientAddress,
    DirectNetwork,
    Endpoint,
    IPFamily,
    Protocol,
    ReturnPath,
    Snapshot,
    TrafficClass,
)
from userproxy.model.reports import SourceFallback
from userproxy.routing.client_address import keeps_client_address

MOST_PLACES: Final = 16_384
"""Addresses whose places are remembered, of clients and endpoints together; about 200 bytes each."""

_DISCARD: Final = 9
"""A port to connect a UDP socket to, which sends nothing."""


_OF_OTHERS: Final = frozenset({errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.EHOSTUNREACH})


class SourceChoice(Struct, frozen=True, gc=False):
    """Whether an endpoint is to see the client's address, and why or why not: a clause.

    With `own_ports_only` source ports are to be of OWN_PORTS: answers may come back to these alone, or the client's own
    connections have others of the same numbers. Otherwise any will do. `interface` is that of the client, empty behind
    a gateway, and `node` the endpoint's, empty where it is not known: for what is learned of connections between the
    two.
    """

    reason: str
    keeps: bool = False
    own_ports_only: bool = False
    interface: str = ""
    node: str = ""


_NOT_LOOKED_YET: Final = SourceChoice("it is not known yet whether answers to the client's address come back")
_OTHER_FAMILY: Final = SourceChoice("the client's address, which a PROXY header names, is of the other family")
_LINK_LOCAL: Final = SourceChoice("the client's address is link-local: answers to it go no further than a link")
_NOBODY: Final = SourceChoice("the client's address, which a PROXY header names, cannot be that of a host")
_LOST: Final = SourceChoice("answers to clients' addresses did not come back from the endpoint's node before")
_THIS_NETWORK: Final = ipaddress.ip_network("0.0.0.0/8")
_BROADCAST: Final = ipaddress.ip_address("255.255.255.255")

_SEEMS_NEAR: Final = SourceChoice(
    "the client's address is one of the network of the endpoint's bridge, so answers to it look for the client there"
)
_WITHIN_BRIDGE: Final = SourceChoice(
    "client and endpoint are on one bridge, so answers to the client's address do not come to this node"
)


class Place(Struct, frozen=True, gc=False):
    """Where an address is: on this node itself (`is_own`), in a network without a gateway, or behind a gateway.

    `refusal` is why no connection can come from it, whatever a Service asks for; None where one can. The address is one
    of the networks of `bridges`, also where a smaller network, of another link, has it.
    """

    is_own: bool
    network: DirectNetwork | None
    refusal: SourceChoice | None = None
    bridges: frozenset[str] = frozenset()


class NetworkTable:
    """Networks of one address family, to be found by addresses."""

    def __init__(self, networks: Iterable[DirectNetwork]) -> None:
        """Raises ValueError for what is no network."""
        by_mask: dict[int, dict[int, DirectNetwork]] = {}
        for each in networks:
            network = ipaddress.ip_network(each.network)
            by_mask.setdefault(int(network.netmask), {})[int(network.network_address)] = each
        self._by_mask = sorted(by_mask.items(), reverse=True)

    def find(self, ip: str) -> DirectNetwork | None:
        """The smallest network that an address is in, None if it is in none. Raises ValueError for no address."""
        return next(self.around(ip), None)

    def around(self, ip: str) -> Iterator[DirectNetwork]:
        """The networks that an address is in, the smallest first. Raises ValueError for no address."""
        number = int(ipaddress.ip_address(ip))
        for mask, networks in self._by_mask:
            network = networks.get(number & mask)
            if network is not None:
                yield network


class Places:
    """Where addresses of one family are. A lookup is remembered, until there are too many or the host's routes change.

    `choice` is what to say of all clients where the host cannot be reached from their addresses, else None.
    """

    def __init__(self, path: ReturnPath) -> None:
        """Raises ValueError for a path whose networks are none."""
        self._table = NetworkTable(path.networks)
        self._places: dict[str, Place] = {}
        self.choice = SourceChoice(path.problem) if path.problem else None

    def __len__(self) -> int:
        return len(self._places)

    def of(self, ip: str) -> Place:
        """Where an address is."""
        place = self._places.get(ip)
        if place is None:
            bridges = frozenset(each.interface for each in self._table.around(ip) if each.is_bridge)
            place = Place(is_own_address(ip), self._table.find(ip), _refusal(ip), bridges)
            while len(self._places) >= MOST_PLACES:
                del self._places[next(iter(self._places))]
            self._places[ip] = place
        return place


class ClientAddresses:
    """Knows the host's networks, which node this is, and what is learned of answers, by protocol and family.

    `fallbacks` counts the dials of connections and flows that came from the node's address although the client's was to
    be kept. To be used on the loop's thread only.
    """

    def __init__(self, node_name: str = "") -> None:
        self.node_name = node_name
        self.places: dict[IPFamily, Places] = {}
        self.pairs = {(protocol, family): ReturnPairs(protocol, family) for protocol in Protocol for family in IPFamily}
        self.fallbacks = dict.fromkeys(SourceFallback, 0)
        self._paths: dict[IPFamily, ReturnPath] = {}

    @property
    def paths(self) -> tuple[ReturnPath, ...]:
        """What has been found out about this host, one for each family."""
        return tuple(self._paths.values())

    def follow(self, path: ReturnPath) -> None:
        """Go by what has been found out about this host. Raises ValueError for networks that are none."""
        before = self._paths.get(path.family)
        if path == before:
            return
        self.places[path.family] = Places(path)
        self._paths[path.family] = path
        if before is None:
            return
        changed = {each.interface for each in {*path.networks} ^ {*before.networks}}
        for (_, family), pairs in self.pairs.items():
            if family is path.family:
                pairs.forget({pair.interface for pair in pairs} if path.problem != before.problem else changed)

    def sources(self, snapshot: Snapshot) -> "Sources | None":
        """For new clients of a listener; None where all their connections come from the node's address."""
        return None if snapshot.client_address is ClientAddress.NODE else Sources(self, snapshot)


class Sources:
    """Whose address the endpoints of one listener see, by its latest snapshot."""

    __slots__ = ("_addresses", "_nodes", "_snapshot", "fallbacks", "pairs")

    def __init__(self, addresses: ClientAddresses, snapshot: Snapshot) -> None:
        name = snapshot.listener
        pairs = addresses.pairs[name.service_port.protocol, name.family]
        self.pairs = pairs.within(name.service_port.namespace)
        self.fallbacks = addresses.fallbacks
        self._addresses = addresses
        self._snapshot = snapshot
        self._nodes: dict[Endpoint, str] | None = None

    def choose(self, client: str, endpoint: Endpoint, *, introduced: bool = False) -> SourceChoice:
        """Whether the next connection of a client to an endpoint is to come from the client's address.

        One that is `introduced` by a PROXY header need not be of this node because whoever has dialled is.
        """
        listener = self._snapshot.listener
        places = self._addresses.places.get(listener.family)
        if places is None:
            return _NOT_LOOKED_YET
        if places.choice is not None:
            return places.choice
        if family_of(client) is not listener.family:
            return _OTHER_FAMILY
        here, there, node = places.of(client), places.of(endpoint.ip), self._node_of(endpoint)
        if here.refusal is not None:
            return here.refusal
        keeps, reason = keeps_client_address(
            self._snapshot.client_address,
            client,
            endpoint,
            client_is_pod_here=here.network is not None and here.network.of_pods,
            client_is_node=here.is_own,
            endpoint_is_here=self._is_here(node, there),
            traffic=TrafficClass.EXTERNAL if introduced else listener.traffic,
            endpoint_is_node=there.is_own,
        )
        if not keeps:
            return SourceChoice(reason)
        if here.network is None:
            return SourceChoice(reason, keeps=True, node=node)
        shares_bridge = is_one_bridge(here.network, there.network)
        if shares_bridge and not here.network.answers_rise:
            return _WITHIN_BRIDGE
        if not shares_bridge and there.network is not None and there.network.interface in here.bridges:
            return _SEEMS_NEAR
        # A Pod may have a direct connection to the endpoint whose port the kernel would choose here, too: our SYN would
        # have the endpoint answer to that one, and our socket would reset it.
        own_ports_only = shares_bridge or here.network.of_pods
        return SourceChoice(
            reason, keeps=True, own_ports_only=own_ports_only, interface=here.network.interface, node=node
        )

    def expect(self, client: str, endpoint: Endpoint) -> SourceChoice:
        """As :meth:`choose`, by what is known of answers, too: what a connection would meet now."""
        choice = self.choose(client, endpoint)
        pair = self.pairs.known(choice.interface, choice.node) if choice.keeps else None
        return choice if pair is None or pair.lost_since is None else _LOST

    def _node_of(self, endpoint: Endpoint) -> str:
        if self._nodes is None:
            self._nodes = dict(zip(self._snapshot.endpoints, self._snapshot.nodes, strict=False))
        return self._nodes.get(endpoint, "")

    def _is_here(self, node: str, place: Place) -> bool:
        return node == self._addresses.node_name if node else place.network is not None and place.network.of_pods


def _refusal(ip: str) -> SourceChoice | None:
    """As in :class:`Place`. The kernel takes no packets from what cannot be a host's address, but lets it be bound."""
    address = ipaddress.ip_address(ip)
    if address.is_link_local:
        return _LINK_LOCAL
    if isinstance(address, ipaddress.IPv4Address):
        is_nobody = address in _THIS_NETWORK or address == _BROADCAST
    else:
        is_nobody = address.is_unspecified or address.ipv4_mapped is not None
    return _NOBODY if is_nobody or address.is_multicast else None


def is_one_bridge(one: DirectNetwork | None, other: DirectNetwork | None) -> bool:
    """Whether what is in two networks is behind the same bridge of this host."""
    return one is not None and other is not None and one.is_bridge and one.interface == other.interface


def is_own_address(ip: str) -> bool:
    """Whether an address is this host's, also where that cannot be found out: then it is not to be used by others.

    Only such addresses can be bound, unless net.ipv4.ip_nonlocal_bind allows all of them. Then the source address that
    the kernel would use towards them tells: it is the same one.
    """
    try:
        with closing(SocketType(socket_family(ip), socket.SOCK_DGRAM)) as sock:
            sock.bind((ip, 0))
        if is_loopback(ip) or not _binds_any_address(family_of(ip)):
            return True
        with closing(SocketType(socket_family(ip), socket.SOCK_DGRAM)) as sock:
            sock.connect((ip, _DISCARD))
            return bool(sock.getsockname()[0] == ip)
    except OSError as error:
        return error.errno not in _OF_OTHERS


def _binds_any_address(family: IPFamily) -> bool:
    version = "ipv6" if family is IPFamily.IPV6 else "ipv4"
    try:
        return Path(f"/proc/sys/net/{version}/ip_nonlocal_bind").read_text().strip() != "0"
    except OSError:
        return False
