"""A cluster's network out of hosts: nodes and outside clients on one LAN, pods behind their nodes.

::

    outside 192.0.2.100 ──┐            ┌── node 192.0.2.10 ── cni0 10.244.1.1/24 ──┬── pod 10.244.1.2
    outside 192.0.2.101 ──┤ lan bridge ├── node 192.0.2.20 ── cni0 10.244.2.1/24   ├── pod 10.244.1.3
                          └ 192.0.2.1 ─┘                                           └── …

Addresses are of the documentation ranges (RFC 5737) and of Kubernetes' usual pod range.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self, TypeVar

from userproxy.demo.hosts import Host

EXTERNAL_RANGES = ("203.0.113.0/24", "198.51.100.0/24")
"""Where external and load-balancer IPs come from; outside hosts reach both through the first node."""


class Node(Host):
    """A cluster node: forwards between the LAN and its pods. ``number`` counts from 1, 0 before it is added."""

    def __init__(self, name: str) -> None:
        self.number = 0
        self.pods: list[Pod] = []
        super().__init__(name)


class Pod(Host):
    """A pod: one interface, and its node as the default route."""


HostT = TypeVar("HostT", bound=Host)
NodeT = TypeVar("NodeT", bound=Node)
PodT = TypeVar("PodT", bound=Pod)


class Network:
    """Wires hosts together, and closes them in the end or as soon as wiring one fails.

    The ``add_`` methods own the host they are given from the moment of the call and return it ready for
    use. Use as a context manager.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.outsiders: list[Host] = []
        with ExitStack() as stack:
            self.lan = stack.enter_context(Host("lan"))
            self.lan.ip_batch(_bridge("lan0", "192.0.2.1"))
            self._stack = stack.pop_all()

    def add_node(self, node: NodeT) -> NodeT:
        """Put a node on the LAN: 192.0.2.10, .20, … with the pod range 10.244.1.0/24, .2.0/24, …"""
        self._stack.enter_context(node)
        node.number = len(self.nodes) + 1
        node.address = f"192.0.2.{node.number * 10}"
        self._join_lan(node, ["default via 192.0.2.1", *(_pod_route(other) for other in self.nodes)])
        node.ip_batch(_bridge("cni0", f"10.244.{node.number}.1"))
        node.sysctl("net.ipv4.ip_forward", 1)
        for other in self.nodes:
            other.ip_batch([f"route add {_pod_route(node)}"])
        self.nodes.append(node)
        return node

    def add_pod(self, node: Node, pod: PodT) -> PodT:
        """Put a pod behind `node`: 10.244.N.2, .3, …"""
        self._stack.enter_context(pod)
        node.pods.append(pod)
        pod.address = f"10.244.{node.number}.{len(node.pods) + 1}"
        _plug(pod, node, "cni0", [f"default via 10.244.{node.number}.1"])
        return pod

    def add_outside(self, host: HostT) -> HostT:
        """Put a host on the LAN that is no node: 192.0.2.100, .101, …"""
        self._stack.enter_context(host)
        host.address = f"192.0.2.{100 + len(self.outsiders)}"
        self.outsiders.append(host)
        first = self.nodes[:1]
        self._join_lan(host, [f"{block} via {node.address}" for node in first for block in EXTERNAL_RANGES])
        return host

    def _join_lan(self, host: Host, routes: Sequence[str]) -> None:
        _plug(host, self.lan, "lan0", routes)

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _plug(host: Host, switch: Host, bridge: str, routes: Sequence[str]) -> None:
    """Connect `host`'s eth0 to a bridge of another host."""
    port = f"veth{host.address.replace('.', '')[-9:]}"
    switch.ip_batch(
        [
            f"link add {port} type veth peer name eth0 netns {host.pid}",
            f"link set {port} master {bridge} up",
        ]
    )
    host.ip_batch(
        [
            f"addr add {host.address}/24 dev eth0",
            "link set eth0 up",
            *(f"route add {route}" for route in routes),
        ]
    )


def _bridge(name: str, address: str) -> list[str]:
    # With an address of its own the bridge keeps it when ports come and go, and neighbours' ARP entries hold.
    mac = "0a:58:" + ":".join(f"{int(part):02x}" for part in address.split("."))
    return [
        f"link add {name} address {mac} type bridge",
        f"addr add {address}/24 dev {name}",
        f"link set {name} up",
    ]


def _pod_route(node: Node) -> str:
    return f"10.244.{node.number}.0/24 via {node.address}"
