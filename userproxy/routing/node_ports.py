"""On which of the node's addresses node ports are served (``--nodeport-addresses``)."""

import ipaddress
from collections.abc import Collection, Sequence
from typing import Final

from userproxy.addresses import of_family
from userproxy.model import IPFamily

PRIMARY: Final = "primary"
"""The word that stands for the node's own addresses as its Node object has them."""


def node_port_ips(
    cidrs: Sequence[str],
    addresses: Collection[str],
    family: IPFamily,
    *,
    node_ips: Sequence[str] | None = (),
    localhost: bool,
) -> tuple[str, ...] | None:
    """Those of the node's `addresses` of `family` on which node ports are served, sorted; None if on all.

    `cidrs` are kube-proxy's ``nodePortAddresses``: networks of either family, or the word ``primary`` alone for
    `node_ips`, None while these are not known: then no address serves. A family of which they name nothing is not
    restricted. Without `localhost` (kube-proxy's
    ``iptables.localhostNodePorts``) no IPv4 loopback address is among them; an IPv6 one never is where networks are
    named, as in kube-proxy. Raises ValueError where a network or an address is none.
    """
    if tuple(cidrs) == (PRIMARY,):
        if node_ips is None:
            return ()
        cidrs = [ip for ip in node_ips if not ipaddress.ip_address(ip).is_loopback]
    networks = [ipaddress.ip_network(cidr, strict=False) for cidr in of_family(cidrs, family)]
    unrestricted = not networks or any(network.prefixlen == 0 for network in networks)
    if unrestricted and (localhost or family is IPFamily.IPV6):
        return None
    loopback = localhost and family is IPFamily.IPV4
    served = []
    for text in of_family(addresses, family):
        address = ipaddress.ip_address(text)
        if (loopback or not address.is_loopback) and (unrestricted or any(address in network for network in networks)):
            served.append(text)
    return tuple(sorted(set(served)))
