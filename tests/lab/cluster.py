"""The lab: the demo's network with hosts that serve, and a node that runs userproxy."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, NamedTuple

from tests.lab.apiserver import HostedApiServer
from tests.lab.apiserver.objects import ApiObjects
from tests.lab.drivers import IPTABLES, Driver, Standing
from tests.lab.manifests import Manifests
from tests.lab.proxy import RunningProxy, installed_command
from tests.lab.rules import rules
from userproxy.addresses import family_of
from userproxy.demo import pods
from userproxy.demo.hosts import Completed, Host
from userproxy.demo.network import Network, Node, Pod, PodWiring, pod_gateways
from userproxy.demo.programs import Program
from userproxy.demo.waiting import eventually
from userproxy.model import IPFamily

QUICK = ("--iptables-min-sync-period", "0s")
"""Flags for tests that edit a lot: a change is not kept waiting for the one before it."""

_IPV4 = (IPFamily.IPV4,)


class Cell(NamedTuple):
    """What a lab is made for: the driver of its nodes, and how its Pods are wired."""

    driver: Driver = IPTABLES
    pods: PodWiring = "bridged"

    def __str__(self) -> str:
        return f"{self.driver.name}:{self.pods}"


CLASSIC = Cell()
"""What tests have that are not of the matrix."""


class LabPod(Pod):
    """A pod with servers in it, which end with the lab. Closing a server that was returned kills it at once."""

    def __init__(self, name: str, stack: ExitStack) -> None:
        self._stack = stack
        super().__init__(name)

    def serve_http(self, port: int = 8080) -> Program:
        """A server that ``fetch`` and ``ask`` understand: it answers with this pod's name and the client it sees."""
        return self.serve(pods.command(self.name, port), port)

    def serve_python(self, source: str, port: int = 8080) -> Program:
        """A Python program that listens on `port`, given as its text."""
        return self.serve([sys.executable, "-c", source], port)

    def serve(self, argv: Sequence[str], port: int) -> Program:
        """Any program; returns once it listens on the TCP port."""
        program = self._stack.enter_context(Program(self, argv))
        program.wait_port(port)
        return program


class LabNode(Node):
    """A node with the installed userproxy. ``proxies`` are all that were started on it, ended ones too."""

    def __init__(self, name: str, manifests: Manifests, stack: ExitStack, driver: Driver = IPTABLES) -> None:
        self.proxies: list[RunningProxy] = []
        self._manifests = manifests
        self._stack = stack
        self._driver = driver
        super().__init__(name)
        driver.prepare(self)

    def own(self, *addresses: str) -> None:
        """Give the node addresses on ``lo``: those of an interface would become the source of its IPv6 traffic.

        They can be bound at once: even there the kernel takes its time to find an IPv6 address no duplicate.
        """
        self.ip_batch([f"addr add {address} dev lo{' nodad' if ':' in address else ''}" for address in addresses])

    def start_userproxy(
        self, *flags: str, most_files: int | None = None, env: Mapping[str, str] | None = None
    ) -> RunningProxy:
        """``userproxy run`` with the lab's source and driver, and the node's name.

        `flags` come last, so they win.
        """
        always = (*self._manifests.flags, "--portals", self._driver.portals, "--hostname-override", self.name)
        always += self._driver.flags
        proxy = RunningProxy(self, *always, *flags, most_files=most_files, env=env)
        self.proxies.append(self._stack.enter_context(proxy))
        return proxy

    def userproxy(self, *arguments: str, check: bool = True) -> Completed:
        """Run another command of userproxy, such as ``cleanup``, to its end."""
        return self.run([installed_command(), *arguments], check=check)

    def standing(
        self, ip: str = "", port: int = 0, protocol: str = "", *, families: Sequence[IPFamily] = tuple(IPFamily)
    ) -> set[Standing]:
        """The portals that stand, whatever the driver; those of an address, port or protocol, where one is given."""
        meant = [family for family in families if not ip or family is family_of(ip)]
        found = {portal for family in meant for portal in self._driver.standing(self, family)}
        wanted = (("", ip), (0, port), ("", protocol))
        return {
            portal
            for portal in found
            if all(each in (anything, mine) for (anything, each), mine in zip(wanted, portal, strict=True))
        }

    def wait_for_portal(self, ip: str = "", port: int = 0, protocol: str = "", *, seconds: float = 30.0) -> None:
        """Return once a portal of this address, port and protocol stands: packets are led to it, or refused."""
        what = f"{self.name}: a portal {ip}:{port or '*'} {protocol}"
        eventually(lambda: self.standing(ip, port, protocol), seconds, what)

    def wait_for_no_portal(self, ip: str = "", port: int = 0, protocol: str = "", *, seconds: float = 30.0) -> None:
        """Return once no portal of this address, port and protocol stands."""
        what = f"{self.name}: no portal {ip}:{port or '*'} {protocol}"
        eventually(lambda: not self.standing(ip, port, protocol), seconds, what)

    def local_ports(self, protocol: Literal["tcp", "udp"] = "tcp") -> set[int]:
        """The ports of every address at which its userproxy listens, but for those of portals, health and metrics."""
        others = {portal.port for portal in self.standing()} | {10249, 10256}
        return self.listening_ports(protocol) - others

    def wait_for_rules(self, text: str, seconds: float = 30.0, *, families: Sequence[IPFamily] = _IPV4) -> list[str]:
        """All rules of the node, once each of the families has one that contains `text`: ``default/web``, an address.

        What there is of rules that are not userproxy's is among them.
        """

        def found() -> list[str]:
            by_family = [rules(self, family) for family in families]
            there = all(any(text in rule for rule in each) for each in by_family)
            return [rule for each in by_family for rule in each] if there else []

        return eventually(found, seconds, f"{self.name}: a rule with {text} in {', '.join(families)}")

    def wait_for_no_rules(
        self, text: str = "KUBE-", seconds: float = 30.0, *, families: Sequence[IPFamily] = _IPV4
    ) -> None:
        """Return once no rule of these families contains `text`, and no name of a chain does."""
        what = f"{self.name}: no rule with {text}"
        eventually(lambda: not any(text in rule for rule in rules(self, *families)), seconds, what)


class Lab:
    """One node with three pods to serve (``pods``) and one to ask (``client``), and a host outside.

    Everything ends with `stack`, whatever the test has left running. `directory` is for manifests; with `api`
    the same builders write to an API server instead. `cell` says which driver its nodes run, and how Pods are wired.
    """

    def __init__(self, directory: Path, stack: ExitStack, *, api: bool = False, cell: Cell = CLASSIC) -> None:
        self._stack = stack
        self.cell = cell
        self.network = stack.enter_context(Network(pods=cell.pods))
        self.manifests = self._api_objects(directory) if api else Manifests(directory)
        self.node = self.add_node("node-1")
        self.pods = [self.add_pod(f"web-{number}") for number in (1, 2, 3)]
        self.client = self.add_pod("client")
        self.outside = self.network.add_outside(Host("outside"))
        self._settled = 0

    def _api_objects(self, directory: Path) -> ApiObjects:
        """Objects of an API server, which has a host of its own on the LAN."""
        host = self.network.add_outside(Host("control-plane"))
        directory.mkdir(parents=True, exist_ok=True)
        return ApiObjects(directory, self._stack.enter_context(HostedApiServer(host, directory)))

    @property
    def api(self) -> HostedApiServer:
        """The API server, where the lab has one."""
        assert isinstance(self.manifests, ApiObjects), "this lab has no API server"
        return self.manifests.server

    def add_node(self, name: str, *, ipv6: bool = True) -> LabNode:
        """Another node; one without `ipv6` has it switched off, as some have."""
        node = LabNode(name, self.manifests, self._stack, self.cell.driver)
        if not ipv6 and node.has_ipv6:
            node.sysctl("net.ipv6.conf.all.disable_ipv6", 1)
        return self.network.add_node(node)

    def gateways(self, node: Node | None = None) -> dict[IPFamily, str]:
        """The addresses of a node's bridge, none where Pods are routed."""
        found = pod_gateways(node or self.node) if self.cell.pods == "bridged" else ()
        return dict(zip(IPFamily, found, strict=False))

    def seen_by_pods(self, family: IPFamily) -> str:
        """The address from which the first node's own processes reach its Pods."""
        own = self.node.address if family is IPFamily.IPV4 else self.node.address6
        return self.gateways().get(family, own)

    def add_second_node(self, pods: int = 2) -> LabNode:
        """Another node, in zone ``b`` while the first is in zone ``a``, with Pods ``far-1`` and on to serve.

        Both nodes have their Node objects afterwards.
        """
        second = self.add_node(f"node-{len(self.network.nodes) + 1}")
        self.pods += [self.add_pod(f"far-{number}", second) for number in range(1, pods + 1)]
        self.manifests.node(self.node, zone="a")
        self.manifests.node(second, zone="b")
        return second

    def settle(self, *families: IPFamily, seconds: float = 30.0) -> None:
        """Return once every running userproxy has taken in everything that was written before this call.

        Its portals show that it has: Services are written that are seen no sooner than what came before, one to be
        refused and one to be served: iptables has a table for each. Not for an API server, which has no order
        between Services and slices. `families` are IPv4 alone by default.
        """
        assert not isinstance(self.manifests, ApiObjects), "an API server's streams have no common order"
        self._settled += 1
        wanted = families or _IPV4
        nobody = {IPFamily.IPV4: "10.244.255.255", IPFamily.IPV6: "fd00:10:244:ff::ff"}
        portals: list[tuple[str, int]] = []
        bases = {"served": ("10.96.253", "fd00:10:96::fd"), "refused": ("10.96.254", "fd00:10:96::fe")}
        for kind, (four, six) in bases.items():
            addresses = {IPFamily.IPV4: f"{four}.{self._settled}", IPFamily.IPV6: f"{six}{self._settled:02x}"}
            self.manifests.service(f"settled-{kind}", ports=1, cluster_ip=[addresses[family] for family in wanted])
            for family in wanted:
                self.manifests.slice(f"settled-{kind}", [nobody[family]] if kind == "served" else [], family=family)
                portals.append((addresses[family], 1 if kind == "served" else 0))
        running = [node for node in self._nodes() if any(proxy.running for proxy in node.proxies)]
        assert running, "no userproxy is running"
        for node in running:
            for ip, port in portals:
                node.wait_for_portal(ip, port, seconds=seconds)

    def add_pod(self, name: str, node: Node | None = None, wiring: PodWiring | None = None) -> LabPod:
        """A pod on the first node, or on another; `wiring` where it is not to be the lab's."""
        return self.network.add_pod(node or self.node, LabPod(name, self._stack), wiring)

    def add_outside(self, name: str) -> Host:
        return self.network.add_outside(Host(name))

    def serve_http(self) -> dict[str, Program]:
        """An HTTP server in each of ``pods``, by pod name. Starts them at once, so it is quicker than one by one."""
        return self.serve_http_in(*self.pods)

    def serve_http_in(self, *hosts: Host) -> dict[str, Program]:
        """The same in any hosts, by their names; a node's own server is that of a Pod with hostNetwork."""
        servers = {host.name: self._stack.enter_context(Program(host, pods.command(host.name))) for host in hosts}
        for server in servers.values():
            server.wait_port(8080)
        return servers

    def enter(self, program: Program) -> Program:
        """Have a program that runs in some host end with the lab."""
        return self._stack.enter_context(program)

    def logs(self) -> dict[str, str]:
        """What every userproxy of the lab has written, by node name and number."""
        return {
            f"userproxy {number} on {node.name}": "\n".join(proxy.lines[-300:])
            for node in self._nodes()
            for number, proxy in enumerate(node.proxies, 1)
        }

    def _nodes(self) -> list[LabNode]:
        return [node for node in self.network.nodes if isinstance(node, LabNode)]
