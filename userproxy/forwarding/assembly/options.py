"""What a forwarder is told of how to forward."""

from collections.abc import Mapping

from msgspec import Struct

from userproxy.forwarding.limits.gates import DEFAULT_PATIENCE
from userproxy.forwarding.ports.ranges import PortRange
from userproxy.model import IPFamily


class ForwardingOptions(Struct, frozen=True):
    """How to forward. Times are seconds.

    `bind_addresses` is where listeners of each family bind; a family that is not there cannot be opened. Their ports
    are of `port_range`, or if that is empty of the kernel's, and keep off those of `kept_ports`.
    `portals_only` refuses clients that dial a listener's port itself; a connection half-open for
    `half_open_timeout` without moving a byte is reset; `descriptor_limit` is the process's limit of open files, of
    which `kept_descriptors` are for others in the process;
    `udp_timeout` is for flows, None for userproxy's own choice. With `bind_portals` listeners have no local ports, and
    clients come by the portals that are served. `node_name` is our own Node's.
    `trusted_proxies` are the networks whose PROXY headers are believed. `processes` is how many forward, of which this
    is one: UDP flows of all of them together are limited. Clients of a service port with limits wait for
    `queue_timeout` at most.
    """

    bind_addresses: Mapping[IPFamily, str]
    port_range: PortRange
    portals_only: bool
    half_open_timeout: float
    descriptor_limit: int
    udp_timeout: float | None = None
    kept_ports: tuple[PortRange, ...] = ()
    kept_descriptors: int = 0
    bind_portals: bool = False
    node_name: str = ""
    trusted_proxies: tuple[str, ...] = ()
    processes: int = 1
    queue_timeout: float = DEFAULT_PATIENCE
