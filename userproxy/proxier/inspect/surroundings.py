"""What a node is for its clients, as the kernel has it now. Blocking."""

from contextlib import suppress

from userproxy.addresses import of_family
from userproxy.errors import KernelToolError
from userproxy.model import LocalTraffic
from userproxy.portals.host import HostAddress, pod_networks
from userproxy.proxier.inspect.explanation import Surroundings
from userproxy.routing.services import Scope


def surroundings(scope: Scope, traffic: LocalTraffic) -> Surroundings:
    """What tells clients apart on this node, but for its own addresses; less where the kernel does not tell."""
    host_ips = set(scope.node_ips)
    with suppress(KernelToolError):
        host_ips.add(HostAddress("", scope.family).lookup())
    pods = tuple(of_family(traffic.networks, scope.family))
    with suppress(KernelToolError):
        pods = pod_networks(traffic, scope.family)
    return Surroundings(pod_networks=pods, host_ips=tuple(sorted(host_ips)))
