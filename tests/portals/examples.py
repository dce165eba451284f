"""Bindings that several tests share, and the rules that kube-proxy's documentation of them asks for."""

from collections.abc import Iterable

import msgspec

from userproxy.model import (
    IPFamily,
    LocalTraffic,
    Portal,
    PortalBinding,
    PortalKind,
    Protocol,
    ServicePortName,
    Target,
    Verdict,
)
from userproxy.portals.iptables.parser import Chains

NODE_IPS = {IPFamily.IPV4: "192.0.2.10", IPFamily.IPV6: "2001:db8::10"}
EVERYWHERE = {IPFamily.IPV4: "0.0.0.0", IPFamily.IPV6: "::"}
NOBODY = LocalTraffic()
REJECT = Target(Verdict.REJECT)
DROP = Target(Verdict.DROP)

_IPV6 = {
    "10.96.0.": "fd00:10:96::",
    "203.0.113.": "2001:db8:113::",
    "198.51.100.": "2001:db8:100::",
    "192.0.2.": "2001:db8::",
    "0.0.0.0": "::",
    "172.17.0.0/16": "fd00:172::/64",
    "127.0.0.0/8": "::1/128",
    "icmp-port": "icmp6-port",
    "iptables": "ip6tables",
    "/32": "/128",
}


def in_family(text: str, family: IPFamily) -> str:
    """The text of an IPv4 example with the addresses that it has in `family`."""
    if family is IPFamily.IPV6:
        for address, replacement in _IPV6.items():
            text = text.replace(address, replacement)
        for ip in ("2001:db8::10", "2001:db8::11"):
            text = text.replace(f"{ip}:", f"[{ip}]:")
    return text


def serve(local_port: int) -> Target:
    return Target(Verdict.SERVE, local_port)


def led_to(
    name: ServicePortName,
    local_port: int,
    portals: Iterable[Portal],
    *,
    external: Target | None = None,
    on_node: Target | None = None,
) -> PortalBinding:
    """A binding all of whose traffic goes to one local port, unless told otherwise."""
    internal = serve(local_port)
    return PortalBinding(name, tuple(portals), internal, external or internal, on_node or external or internal)


WEB_NAME = ServicePortName("default", "web", "http", Protocol.TCP)

WEB = led_to(
    WEB_NAME,
    41234,
    (
        Portal(PortalKind.CLUSTER_IP, "10.96.0.10", 80),
        Portal(PortalKind.EXTERNAL_IP, "203.0.113.5", 80),
        Portal(PortalKind.NODE_PORT, "", 30080),
    ),
)

_REFUSED = '-m conntrack --ctstate NEW -m comment --comment "refuse portal traffic that is not served"'
_WEB = '-p tcp -m comment --comment "default/web:http" -m tcp'

WEB_RULES: dict[str, Chains] = {
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
            f"-d 203.0.113.5/32 {_WEB} --dport 80 -j REDIRECT --to-ports 41234",
        ],
        "KUBE-PORTALS-HOST": [
            f"-d 10.96.0.10/32 {_WEB} --dport 80 -j DNAT --to-destination 192.0.2.10:41234",
            f"-d 203.0.113.5/32 {_WEB} --dport 80 -j DNAT --to-destination 192.0.2.10:41234",
        ],
        "KUBE-NODEPORT-CONTAINER": [f"{_WEB} --dport 30080 -j REDIRECT --to-ports 41234"],
        "KUBE-NODEPORT-HOST": [f"{_WEB} --dport 30080 -j DNAT --to-destination 192.0.2.10:41234"],
    },
    "filter": {
        "INPUT": [
            f"{_REFUSED} -j KUBE-PORTALS-FILTER",
            '-m comment --comment "Ensure that non-local NodePort traffic can flow" -j KUBE-NODEPORT-NON-LOCAL',
        ],
        "FORWARD": [f"{_REFUSED} -j KUBE-PORTALS-FILTER"],
        "OUTPUT": [f"{_REFUSED} -j KUBE-PORTALS-FILTER-HOST"],
        "KUBE-NODEPORT-NON-LOCAL": [f"{_WEB} --dport 41234 -m state --state NEW -j ACCEPT"],
    },
}
"""The worked example: what iptables-save has to print for WEB on a node at 192.0.2.10, and nothing else."""


def web(family: IPFamily, local_port: int = 41234) -> PortalBinding:
    """WEB with the addresses of `family`."""
    portals = [Portal(portal.kind, in_family(portal.ip, family), portal.port) for portal in WEB.portals]
    return led_to(WEB_NAME, local_port, portals)


def web_rules(family: IPFamily, local_port: int = 41234) -> dict[str, Chains]:
    """What ip(6)tables-save has to print for :func:`web`, and nothing else."""
    text = in_family(msgspec.json.encode(WEB_RULES).decode(), family)
    return msgspec.json.decode(text.replace("41234", str(local_port)), type=dict[str, Chains])


def cluster_ip_binding(number: int, local_port: int | None = None, family: IPFamily = IPFamily.IPV4) -> PortalBinding:
    """One of many: a cluster IP of its own."""
    ip = f"10.{100 + number // 65536}.{number // 256 % 256}.{number % 256}"
    if family is IPFamily.IPV6:
        ip = f"fd00:10::{number + 1:x}"
    return led_to(
        ServicePortName("bulk", f"service-{number}", "", Protocol.TCP),
        10000 + number if local_port is None else local_port,
        (Portal(PortalKind.CLUSTER_IP, ip, 80),),
    )
