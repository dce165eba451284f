"""The portal drivers that a lab's nodes may run, and how each one's portals are seen from outside the process."""

import re
from collections.abc import Callable
from typing import NamedTuple

from tests.lab.rules import rules
from userproxy.demo.hosts import Host
from userproxy.model import IPFamily

ROUTES = 117
"""The mark of routes by the local driver (``ip route ... proto 117``)."""

_OTHER_PORTS = (10249, 10256)
"""Of metrics and health checks."""

_FIRST_NODE_PORT = 30000

_LOCAL_CAPABILITIES = frozenset({"CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE"})

_DESTINATION = re.compile(r"-d ([^ /]+)")
_PORT = re.compile(r"-p (\w+) .*--dport (\d+)")
_ELEMENT = re.compile(r"(?:([0-9a-f.:]+) \. )?(tcp|udp) \. (\d+)(?: comment \"[^\"]*\")? : ")
_PORTAL_CHAINS = re.compile(
    r"-A KUBE-(PORTALS-CONTAINER|PORTALS-HOST|PORTALS-FILTER|PORTALS-FILTER-HOST|NODEPORT-CONTAINER|NODEPORT-HOST) "
)


class Standing(NamedTuple):
    """A portal that packets are led to or refused at; `ip` is empty for a node port of every address."""

    ip: str
    port: int
    protocol: str


class Driver(NamedTuple):
    """A driver as the lab runs it: `portals` is what ``--portals`` says.

    `flags` are what it needs beside that to serve everything.
    `standing` reads what a host has of it, `variant` is that of iptables which the node is made to use. It works with
    `capabilities` and no others. With `has_local_ports` packets are led to listeners at ports of their own.
    """

    name: str
    portals: str
    standing: Callable[[Host, IPFamily], set[Standing]]
    variant: str = ""
    capabilities: frozenset[str] = frozenset({"CAP_NET_ADMIN"})
    has_local_ports: bool = True
    flags: tuple[str, ...] = ()

    def prepare(self, host: Host) -> None:
        """Leave kubelet's hint for the variant, if the driver has one: that is how userproxy finds out."""
        for command in (f"iptables-{self.variant}", f"ip6tables-{self.variant}") if self.variant else ():
            host.run([command, "-t", "mangle", "-N", "KUBE-IPTABLES-HINT"], check=command[2] != "6", brief=True)


def _of_rules(host: Host, family: IPFamily) -> set[Standing]:
    found: set[Standing] = set()
    for rule in rules(host, family):
        port = _PORT.search(rule)
        if port and _PORTAL_CHAINS.match(rule) and "not through a portal" not in rule:
            ip = _DESTINATION.search(rule)
            found.add(Standing(ip[1] if ip else "", int(port[2]), port[1]))
    return found


def _of_elements(host: Host, family: IPFamily) -> set[Standing]:
    """Elements of maps: ``10.96.0.10 . tcp . 80 comment "default/web" : 41234``, ``tcp . 30080 ... : 41234``."""
    table = "ip6" if family is IPFamily.IPV6 else "ip"
    text = host.run(["nft", "list", "table", table, "userproxy"], check=False, brief=True).stdout
    return {Standing(ip, int(port), protocol) for ip, protocol, port in _ELEMENT.findall(text)}


def _of_sockets(host: Host, family: IPFamily) -> set[Standing]:
    """Where userproxy listens itself, and addresses of routes where nobody does, without a port."""
    number = "-4" if family is IPFamily.IPV4 else "-6"
    shown = host.run(["ip", "-o", number, "address", "show"], brief=True).stdout.splitlines()
    own = {line.split()[3].partition("/")[0] for line in shown}
    found: set[Standing] = set()
    for line in host.run(["ss", "-Hlntup", number], brief=True).stdout.splitlines():
        protocol, _, _, _, at, *_ = line.split()
        ip, _, port = at.rpartition(":")
        ip = ip.strip("[]")
        if '"userproxy"' in line and ip not in ("0.0.0.0", "*", "::") and int(port) not in _OTHER_PORTS:
            found.add(Standing("" if ip in own and int(port) >= _FIRST_NODE_PORT else ip, int(port), protocol))
    local = ["ip", number, "route", "show", "table", "local", "proto", str(ROUTES)]
    routes = host.run(local, check=False, brief=True).stdout
    addresses = {line.split()[1] for line in routes.splitlines()}
    return found | {Standing(ip, 0, "") for ip in addresses - {portal.ip for portal in found}}


IPTABLES = Driver("iptables", "iptables", _of_rules)
"""The variant that the machine's programs take by default."""

DRIVERS = {
    driver.name: driver
    for driver in (
        Driver("iptables-legacy", "iptables", _of_rules, "legacy", frozenset({"CAP_NET_ADMIN", "CAP_NET_RAW"})),
        Driver("iptables-nft", "iptables", _of_rules, "nft"),
        Driver("nftables", "nftables", _of_elements),
        Driver(
            "local",
            "local",
            _of_sockets,
            capabilities=_LOCAL_CAPABILITIES,
            has_local_ports=False,
            flags=("--feature-gates", "AllowServiceExternalIPs=true"),
        ),
    )
}
"""What the matrix of end-to-end tests goes through (tests/e2e/matrix.py)."""
