"""Who may use a Service's load-balancer IPs (``loadBalancerSourceRanges``)."""

from collections.abc import Iterable, Sequence
from ipaddress import ip_address, ip_network

from userproxy.addresses import IPFamily, family_of, network_of, of_family
from userproxy.model import BalancerAccess
from userproxy.routing.networks import Networks


def allowed_sources(
    ranges: Iterable[str], load_balancer_ips: Iterable[str], node_ips: Iterable[str], family: IPFamily
) -> tuple[str, ...]:
    """The networks of `family` that may use the load-balancer IPs, sorted; empty if everybody may.

    `ranges` are those that the Service names, valid and of either family. As with kube-proxy, ``/0`` and a family
    without a range restrict nobody, and a range with one of the node's own addresses in it lets in the load-balancer
    IPs, too: a node that carries one on an interface has it as the source of what its own processes send there.
    """
    named = set(of_family(ranges, family))
    if not named or any(network.endswith("/0") for network in named):
        return ()
    networks = [ip_network(network) for network in named]
    nodes = [ip_address(ip) for ip in of_family(node_ips, family)]
    if any(node in network for node in nodes for network in networks):
        named.update(network_of(ip) for ip in of_family(load_balancer_ips, family))
    return tuple(sorted(named))


class BalancerRule:
    """Tells who may use a load balancer of those whose addresses no portal rule sees: a PROXY header has them."""

    __slots__ = ("_ips", "_networks")

    def __init__(self, access: BalancerAccess) -> None:
        self._ips = frozenset(access.ips)
        self._networks = {family: Networks(of_family(access.networks, family)) for family in IPFamily}

    def admits(self, client: str, dialled: Iterable[str]) -> bool:
        """Whether a client may come by the addresses `dialled`: all of them if none is the load balancer's."""
        networks = self._networks[family_of(client)]
        return not networks or client in networks or self._ips.isdisjoint(dialled)


def within(source: str, ranges: Sequence[str]) -> tuple[str, ...]:
    """The parts of a network that lie in `ranges`, all of it if there are none. An empty `source` is everybody."""
    if not ranges:
        return (source,)
    if not source:
        return tuple(ranges)
    own = ip_network(source)
    # Networks are nested or disjoint, and these are of one family.
    parts = (
        max(own, network, key=lambda each: each.prefixlen)
        for network in map(ip_network, ranges)
        if own.overlaps(network)
    )
    return tuple(dict.fromkeys(map(str, parts)))
