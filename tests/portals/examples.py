"""Bindings that several tests share, and the rules that kube-proxy's documentation of them asks for."""

from userproxy.model import Portal, PortalBinding, PortalKind, Protocol, ServicePortName

WEB_NAME = ServicePortName("default", "web", "http", Protocol.TCP)

WEB = PortalBinding(
    WEB_NAME,
    41234,
    (
        Portal(PortalKind.CLUSTER_IP, "10.96.0.10", 80),
        Portal(PortalKind.EXTERNAL_IP, "203.0.113.5", 80),
        Portal(PortalKind.NODE_PORT, "", 30080),
    ),
)

_WEB = '-p tcp -m comment --comment "default/web:http" -m tcp'

WEB_RULES = {
    "nat": {
        "PREROUTING": [
            '-m comment --comment "handle ClusterIPs; NOTE: this must be before the NodePort rules" '
            "-j KUBE-PORTALS-CONTAINER",
            '-m addrtype --dst-type LOCAL -m comment --comment "handle service NodePorts; '
            'NOTE: this must be the last rule in the chain" -j KUBE-NODEPORT-CONTAINER',
        ],
        "OUTPUT": [
            '-m comment --comment "handle ClusterIPs; NOTE: this must be before the NodePort rules" '
            "-j KUBE-PORTALS-HOST",
            '-m addrtype --dst-type LOCAL -m comment --comment "handle service NodePorts; '
            'NOTE: this must be the last rule in the chain" -j KUBE-NODEPORT-HOST',
        ],
        "KUBE-PORTALS-CONTAINER": [
            f"-d 10.96.0.10/32 {_WEB} --dport 80 -j REDIRECT --to-ports 41234",
            f"-d 203.0.113.5/32 {_WEB} --dport 80 -m physdev ! --physdev-is-in -j REDIRECT --to-ports 41234",
            f"-d 203.0.113.5/32 {_WEB} --dport 80 -m addrtype --dst-type LOCAL -j REDIRECT --to-ports 41234",
        ],
        "KUBE-PORTALS-HOST": [
            f"-d 10.96.0.10/32 {_WEB} --dport 80 -j DNAT --to-destination 192.0.2.10:41234",
            f"-d 203.0.113.5/32 {_WEB} --dport 80 -m addrtype --dst-type LOCAL "
            "-j DNAT --to-destination 192.0.2.10:41234",
        ],
        "KUBE-NODEPORT-CONTAINER": [f"{_WEB} --dport 30080 -j REDIRECT --to-ports 41234"],
        "KUBE-NODEPORT-HOST": [f"{_WEB} --dport 30080 -j DNAT --to-destination 192.0.2.10:41234"],
    },
    "filter": {
        "INPUT": [
            '-m comment --comment "Ensure that non-local NodePort traffic can flow" -j KUBE-NODEPORT-NON-LOCAL',
        ],
        "KUBE-NODEPORT-NON-LOCAL": [f"{_WEB} --dport 41234 -m state --state NEW -j ACCEPT"],
    },
}
"""The worked example: what iptables-save has to print for WEB on a node at 192.0.2.10, and nothing else."""


def cluster_ip_binding(number: int, local_port: int | None = None) -> PortalBinding:
    """One of many: a cluster IP and a node port of its own."""
    ip = f"10.{100 + number // 65536}.{number // 256 % 256}.{number % 256}"
    return PortalBinding(
        ServicePortName("bulk", f"service-{number}", "", Protocol.TCP),
        10000 + number if local_port is None else local_port,
        (Portal(PortalKind.CLUSTER_IP, ip, 80),),
    )
