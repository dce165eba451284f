"""What a service port puts into the sets and maps of the table.

Pure. The rules of the ``iptables`` driver say what each element means; here a portal is looked up by its address,
protocol and port instead.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address
from typing import Final, TypeAlias

from msgspec import Struct

from userproxy.addresses import family_of, host_and_port
from userproxy.errors import ObjectError
from userproxy.model import (
    IPFamily,
    Portal,
    PortalBinding,
    PortalKind,
    Protocol,
    ServicePortName,
    Target,
    Verdict,
    local_ports_of,
)
from userproxy.portals.netlink import attribute
from userproxy.portals.nftables.expressions import DROP, GOTO, TCP, UDP, value_data, verdict_data
from userproxy.portals.nftables.layout import (
    ALLOWED,
    AUDIENCES,
    ELSEWHERE,
    EVERYBODY,
    NODE_PORTS,
    ON_NODE,
    PORTALS,
    REFUSE,
    REFUSED_NODE_PORTS,
    REFUSED_PORTALS,
    RESTRICTED,
    UDP_LISTENERS,
    node_port_key,
    port_value,
    portal_key,
    protocol_of,
)
from userproxy.routing.source_ranges import allowed_sources

_NUMBERS: Final = {Protocol.TCP: TCP, Protocol.UDP: UDP, Protocol.SCTP: 132}
_PROTOCOLS: Final = {number: protocol for protocol, number in _NUMBERS.items()}
_PORTAL_TABLES: Final = (PORTALS, REFUSED_PORTALS, NODE_PORTS, REFUSED_NODE_PORTS)
_PORTAL_KEY_BYTES: Final = (8, 12, 24)
"""Of a node port, and of a portal with an IPv4 or an IPv6 address."""
_ORDER: Final = {kind: position for position, kind in enumerate(PortalKind)}
# What the Kubernetes API allows in names, and more; no quote, no space, nothing that ends a line.
_NAME: Final = re.compile(r"[A-Za-z0-9._:/-]{1,200}")

_KEY: Final = 1  # NFTA_SET_ELEM_KEY, linux/netfilter/nf_tables.h
_KEY_END: Final = 10
ELEMENT_NAMES: Final = (_KEY, _KEY_END)
"""The attributes that name an element, in the kernel's order, which begin it."""
ELEMENT_DATA: Final = 2
ELEMENT_COMMENT: Final = 6  # NFTA_SET_ELEM_USERDATA
_COMMENT: Final = 0  # NFTNL_UDATA_SET_ELEM_COMMENT, libnftnl/udata.h

_REFUSALS: Final = {
    Verdict.REJECT: attribute(ELEMENT_DATA, verdict_data(GOTO, REFUSE)),
    Verdict.DROP: attribute(ELEMENT_DATA, verdict_data(DROP)),
}

Slot: TypeAlias = tuple[str, str, int]
"""Protocol, address and port of a portal, or ``UDP_LISTENERS`` and a local port: what one alone can have."""


_Network: TypeAlias = IPv4Network | IPv6Network


class Element(Struct, frozen=True, gc=False):
    """One element. `key` and `rest` are attributes as the kernel lists them; `rest` is the data and the comment."""

    set: str
    key: bytes
    rest: bytes = b""

    @property
    def body(self) -> bytes:
        """All of it."""
        return self.key + self.rest


class Claim(Struct, frozen=True, gc=False):
    """The elements that a service port wants in a slot. Of several claims that with the lowest `rank` has it."""

    rank: int
    elements: tuple[Element, ...]


def claims(binding: PortalBinding, family: IPFamily, host_ip: str) -> dict[Slot, Claim]:
    """The elements for the portals of a service port that are of `family`.

    `host_ip` is the node's own address, as far as one is known. Raises ObjectError where the name cannot be a comment.
    """
    found: dict[Slot, Claim] = {}
    sources = _allowed_sources(binding, family, host_ip)
    for portal in sorted(binding.portals, key=lambda portal: _ORDER[portal.kind]):
        slot = (binding.name.protocol, portal.ip, portal.port)
        if slot not in found and (not portal.ip or family_of(portal.ip) is family):
            found[slot] = Claim(_ORDER[portal.kind], tuple(_portal_elements(binding, portal, sources)))
    if binding.name.protocol is Protocol.UDP:
        comment = _comment(str(_checked(binding.name)))
        for port in local_ports_of([binding.internal, binding.external, binding.on_node]):
            guarded = Element(UDP_LISTENERS, attribute(_KEY, value_data(port_value(port))), comment)
            found[UDP_LISTENERS, "", port] = Claim(0, (guarded,))
    return found


def local_ports(elements: Iterable[tuple[str, bytes, bytes, bytes]]) -> Mapping[ServicePortName, tuple[int, ...]]:
    """The local ports that elements lead each service port to, that of its cluster IP first.

    An element is here the name of its set, its key, data and comment as they are, without attributes.
    """
    found: dict[ServicePortName, list[tuple[int, int, int]]] = {}
    for name, key, data, comment in elements:
        table, _, _ = name.partition("-from-")
        if table not in (PORTALS, NODE_PORTS) or len(data) < 2:
            continue
        read = _read_comment(comment, protocol_of(key))
        if read is not None:
            service_port, rank = read
            audience = AUDIENCES.index(name.removeprefix(table))
            found.setdefault(service_port, []).append((rank, audience, int.from_bytes(data[:2], "big")))
    return {name: tuple(dict.fromkeys(port for _, _, port in sorted(ports))) for name, ports in found.items()}


def element_text(name: str, key: bytes, comment: bytes) -> str:
    """An element of the set `name` for a person: the address and port that it is about, and who has it.

    Key and comment are as they are, without attributes.
    """
    table, _, _ = name.partition("-from-")
    parts = [f"element of {name}"]
    if table in _PORTAL_TABLES and len(key) in _PORTAL_KEY_BYTES:
        port, ip = int.from_bytes(key[-4:-2], "big"), key[:-8]
        address = host_and_port(str(ip_address(ip)), port) if ip else str(port)
        parts.append(f"{address}/{_PROTOCOLS.get(protocol_of(key), 'other')}")
    text = comment[2:].rstrip(b"\0").decode(errors="replace")
    return ": ".join([" ".join(parts), *([text] if text else [])])


def _portal_elements(binding: PortalBinding, portal: Portal, sources: Sequence[_Network]) -> Iterator[Element]:
    number = _NUMBERS[binding.name.protocol]
    key = portal_key(portal.ip, number, portal.port) if portal.ip else node_port_key(number, portal.port)
    served, refused = (PORTALS, REFUSED_PORTALS) if portal.ip else (NODE_PORTS, REFUSED_NODE_PORTS)
    comment = _comment(f"{_checked(binding.name)}, {portal.kind}")
    for audience, target in _targets(binding, portal):
        if target.verdict is Verdict.SERVE:
            data = attribute(ELEMENT_DATA, value_data(port_value(target.local_port)))
            yield _element(served + audience, key, data + comment)
        else:
            yield _element(refused + audience, key, _REFUSALS[target.verdict] + comment)
    if portal.kind is PortalKind.LOAD_BALANCER_IP:
        yield from _restriction(key, sources, comment)


def _targets(binding: PortalBinding, portal: Portal) -> Sequence[tuple[str, Target]]:
    """Where each audience of a portal is led."""
    if portal.kind is PortalKind.CLUSTER_IP:
        return ((EVERYBODY, binding.internal),)
    if binding.on_node.is_like(binding.external):
        return ((EVERYBODY, binding.external),)
    return ((ON_NODE, binding.on_node), (ELSEWHERE, binding.external))


def _restriction(key: bytes, sources: Sequence[_Network], comment: bytes) -> Iterator[Element]:
    if sources:
        yield _element(RESTRICTED, key, comment)
    for network in sources:
        first = attribute(_KEY, value_data(key + network.network_address.packed))
        last = attribute(_KEY_END, value_data(key + network.broadcast_address.packed))
        yield Element(ALLOWED, first + last, comment)


def _allowed_sources(binding: PortalBinding, family: IPFamily, host_ip: str) -> Sequence[_Network]:
    """The networks that may use load-balancer IPs, all if there are none; none of them within another."""
    if not binding.source_ranges:
        return ()
    balancers = [portal.ip for portal in binding.portals if portal.kind is PortalKind.LOAD_BALANCER_IP]
    texts = allowed_sources(binding.source_ranges, balancers, [host_ip] if host_ip else [], family)
    if family is IPFamily.IPV6:
        return list(collapse_addresses(map(IPv6Network, texts)))
    return list(collapse_addresses(map(IPv4Network, texts)))


def _element(name: str, key: bytes, rest: bytes) -> Element:
    return Element(name, attribute(_KEY, value_data(key)), rest)


def _comment(text: str) -> bytes:
    data = text.encode() + b"\0"
    return attribute(ELEMENT_COMMENT, bytes([_COMMENT, len(data)]) + data)


def _read_comment(comment: bytes, protocol: int) -> tuple[ServicePortName, int] | None:
    """The service port that a comment names, and the place of the portal's kind in their order."""
    if len(comment) < 2 or protocol not in _PROTOCOLS:
        return None
    text, _, kind = comment[2:].rstrip(b"\0").decode(errors="replace").partition(", ")
    namespace, _, rest = text.partition("/")
    name, _, port_name = rest.partition(":")
    if not name or kind not in list(PortalKind):
        return None
    return ServicePortName(namespace, name, port_name, _PROTOCOLS[protocol]), _ORDER[PortalKind(kind)]


def _checked(name: ServicePortName) -> ServicePortName:
    if not _NAME.fullmatch(str(name)):
        raise ObjectError(f"service port {str(name)!r}: its name cannot be the comment of an nftables element")
    return name
