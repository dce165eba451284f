"""A cluster's network out of hosts: nodes and outside clients on one LAN, pods behind their nodes.

::

    outside 192.0.2.100 ──┐            ┌── node 192.0.2.10 ── cni0 10.244.1.1/24 ──┬── pod 10.244.1.2
    outside 192.0.2.101 ──┤ lan bridge ├── node 192.0.2.20 ── cni0 10.244.2.1/24   ├── pod 10.244.1.3
                          └ 192.0.2.1 ─┘                                           └── …

Pods are wired as ``pods`` says: ``bridged``, as above, or ``routed``, as Calico, AWS' CNI plugin and GKE do it. A
routed Pod has a veth of its own whose other end, ``cali...``, has no address; the node has a route to each Pod::

    outside 192.0.2.100 ── lan bridge ── node 192.0.2.10 ──┬── cali10244012 ── pod 10.244.1.2/32
                                                           └── cali10244013 ── pod 10.244.1.3/32

In IPv6 the same hosts are 2001:db8::100 and ::101, ::10 and ::20 behind ::1, and the pods fd00:10:244:1::2 and so on.
Addresses are of the documentation ranges (RFC 5737, RFC 3849) and of Kubernetes' usual pod range. A host on which
IPv6 is not to be had is wired for IPv4 alone.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Literal, TypeAlias, TypeVar

from userproxy.addresses import is_ipv6, network_of
from userproxy.demo.closing import Closing
from userproxy.demo.hosts import Host

EXTERNAL_RANGES = ("203.0.113.0/24", "198.51.100.0/24", "2001:db8:e::/64")
"""Where external and load-balancer IPs come from; outside hosts reach them through the first node."""

PodWiring: TypeAlias = Literal["bridged", "routed"]
"""How a Pod is connected to its node: by a port of the node's bridge, or by a link of its own without a bridge."""

_ROUTED_MAC = "ee:ee:ee:ee:ee:ee"
_ROUTED_GATEWAYS = ("169.254.1.1", "fe80::ecee:eeff:feee:eeee")
"""The gateways of a routed Pod, one per family, as Calico has them.

The node answers ARP for the first without having it (proxy_arp). It has the second on each Pod's link, since the
kernel makes it out of the MAC address.
"""


class Node(Host):
    """A cluster node: forwards between the LAN and its pods. ``number`` counts from 1, 0 before it is added."""

    def __init__(self, name: str) -> None:
        self.number = 0
        self.pods: list[Pod] = []
        super().__init__(name)


class Pod(Host):
    """A pod: one interface, and its node as the default route. ``node`` is None before it is added."""

    def __init__(self, name: str) -> None:
        self.node: Node | None = None
        super().__init__(name)


HostT = TypeVar("HostT", bound=Host)
NodeT = TypeVar("NodeT", bound=Node)
PodT = TypeVar("PodT", bound=Pod)


class Network(Closing):
    """Wires hosts together, and closes them in the end or as soon as wiring one fails.

    `pods` is how Pods are wired that say nothing else. The ``add_`` methods own the host they are given from the
    moment of the call and return it ready for use. Use as a context manager.
    """

    def __init__(self, *, pods: PodWiring = "bridged") -> None:
        self.nodes: list[Node] = []
        self._wiring: PodWiring = pods
        self.outsiders: list[Host] = []
        with ExitStack() as stack:
            self.lan = stack.enter_context(Host("lan"))
            self._set_up(self.lan)
            self.lan.ip_batch(_bridge("lan0", "192.0.2.1", *(["2001:db8::1"] if self.lan.has_ipv6 else [])))
            self._stack = stack.pop_all()

    def add_node(self, node: NodeT) -> NodeT:
        """Put a node on the LAN: 192.0.2.10, .20, … with the pod range 10.244.1.0/24, .2.0/24, …"""
        self._stack.enter_context(node)
        node.number = len(self.nodes) + 1
        node.address = f"192.0.2.{node.number * 10}"
        ipv6 = self._set_up(node)
        node.address6 = f"2001:db8::{node.number * 10}" if ipv6 else ""
        routes = ["default via 192.0.2.1", *(["default via 2001:db8::1"] if ipv6 else [])]
        self._join_lan(node, [*routes, *(route for other in self.nodes for route in _pod_routes(other, node))])
        if self._wiring == "bridged":
            node.ip_batch(_bridge("cni0", *pod_gateways(node)))
        node.sysctl("net.ipv4.ip_forward", 1)
        if ipv6:
            node.sysctl("net.ipv6.conf.all.forwarding", 1)
        for other in self.nodes:
            other.ip_batch([f"route add {route}" for route in _pod_routes(node, other)])
        self.nodes.append(node)
        return node

    def add_pod(self, node: Node, pod: PodT, wiring: PodWiring | None = None) -> PodT:
        """Put a pod behind `node`: 10.244.N.2, .3, …

        A routed Pod may join a node of bridged ones. They do not reach each other, but all else, and the node.
        """
        self._stack.enter_context(pod)
        node.pods.append(pod)
        pod.node = node
        pod.address = f"10.244.{node.number}.{len(node.pods) + 1}"
        ipv6 = self._set_up(pod) and node.address6
        pod.address6 = f"fd00:10:244:{node.number}::{len(node.pods) + 1:x}" if ipv6 else ""
        if (wiring or self._wiring) == "routed":
            _connect_routed(pod, node)
        else:
            gateways = pod_gateways(node)[: 2 if ipv6 else 1]
            _plug(pod, node, "cni0", [f"default via {gateway}" for gateway in gateways])
        return pod

    def add_outside(self, host: HostT) -> HostT:
        """Put a host on the LAN that is no node: 192.0.2.100, .101, …"""
        self._stack.enter_context(host)
        number = 100 + len(self.outsiders)
        host.address = f"192.0.2.{number}"
        host.address6 = f"2001:db8::{number}" if self._set_up(host) else ""
        _ignore_redirects(host)
        self.outsiders.append(host)
        routes = [(block, _next_hop(node, block)) for node in self.nodes[:1] for block in EXTERNAL_RANGES]
        self._join_lan(host, [f"{block} via {hop}" for block, hop in routes if hop and (host.address6 or "." in hop)])
        return host

    def _set_up(self, host: Host) -> bool:
        """Make IPv6 addresses of `host` count at once, and its routes stay; whether it and the LAN have IPv6 at all."""
        ipv6 = host.has_ipv6 and self.lan.has_ipv6
        for scope in ("all", "default"):  # a link looks for duplicates unless both say no
            # A node that has no rules yet tells outside hosts to use its own gateway for a portal (ICMP redirect).
            host.sysctl(f"net.ipv4.conf.{scope}.accept_redirects", 0)
            for setting in ("accept_redirects", "accept_dad", "accept_ra") if ipv6 else ():
                host.sysctl(f"net.ipv6.conf.{scope}.{setting}", 0)
        return ipv6

    def _join_lan(self, host: Host, routes: Sequence[str]) -> None:
        _plug(host, self.lan, "lan0", routes)

    def close(self) -> None:
        self._stack.close()


def _ignore_redirects(host: Host) -> None:
    """A node without rules for an address sends it back to the LAN, and says so by ICMP. Later it may have rules."""
    for family in ("ipv4", "ipv6") if host.address6 else ("ipv4",):
        for scope in ("all", "default"):
            host.sysctl(f"net.{family}.conf.{scope}.accept_redirects", 0)


def _plug(host: Host, switch: Host, bridge: str, routes: Sequence[str]) -> None:
    """Connect `host`'s eth0 to a bridge of another host."""
    port = _link_name("veth", host)
    switch.ip_batch(
        [
            f"link add {port} type veth peer name eth0 netns {host.pid}",
            f"link set {port} master {bridge} up",
        ]
    )
    host.ip_batch(
        [
            "link set eth0 up",
            *(_address(each, "eth0") for each in (host.address, host.address6) if each),
            *(f"route add {route}" for route in routes),
        ]
    )


def _connect_routed(pod: Pod, node: Node) -> None:
    """Connect `pod`'s eth0 to a link of its own on `node`, with the sysctls that Calico sets for it."""
    link = _link_name("cali", pod)
    addresses = [network_of(address) for address in (pod.address, pod.address6) if address]
    gateways = _ROUTED_GATEWAYS[: len(addresses)]
    node.ip_batch(
        [
            f"link add {link} address {_ROUTED_MAC} type veth peer name eth0 netns {pod.pid}",
            f"link set {link} up",
        ]
    )
    for name, value in (
        (f"net.ipv4.conf.{link}.rp_filter", 1),
        (f"net.ipv4.conf.{link}.proxy_arp", 1),
        (f"net.ipv4.neigh.{link}.proxy_delay", 0),  # else the kernel answers after up to 0.8 s
    ):
        node.sysctl(name, value)
    pod.ip_batch(
        [
            "link set eth0 up",
            *(f"addr add {address} dev eth0" for address in addresses),
            *(f"route add {gateway} dev eth0" for gateway in gateways if "." in gateway),
            *(f"route add default via {gateway} dev eth0" for gateway in gateways),
        ]
    )
    node.ip_batch([f"route add {address} dev {link}" for address in addresses])


def _link_name(kind: str, host: Host) -> str:
    return f"{kind}{host.address.replace('.', '')[-9:]}"


def _bridge(name: str, address: str, *more: str) -> list[str]:
    # With an address of its own the bridge keeps it when ports come and go, and neighbours' entries for it hold.
    mac = "0a:58:" + ":".join(f"{int(part):02x}" for part in address.split("."))
    return [
        f"link add {name} address {mac} type bridge",
        f"link set {name} up",
        *(_address(each, name) for each in (address, *more)),
    ]


def _address(address: str, device: str) -> str:
    return f"addr add {address}/{64 if is_ipv6(address) else 24} dev {device}"


def pod_gateways(node: Node) -> list[str]:
    """What `node`'s bridged pods know it by, one address per family."""
    return [f"10.244.{node.number}.1", *([f"fd00:10:244:{node.number}::1"] if node.address6 else [])]


def _pod_routes(node: Node, of: Node) -> list[str]:
    """How `of` reaches the pods of `node`."""
    four = f"10.244.{node.number}.0/24 via {node.address}"
    six = f"fd00:10:244:{node.number}::/64 via {node.address6}"
    return [four, six] if node.address6 and of.address6 else [four]


def _next_hop(node: Node, block: str) -> str:
    """The address of `node` in the family of `block`, empty where it has none."""
    return node.address6 if is_ipv6(block) else node.address
