"""Addresses of our own listeners, which are not to be dialled: that would be a routing loop."""

import socket
from collections import defaultdict
from collections.abc import Container
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from userproxy.addresses import socket_family
from userproxy.model import Endpoint, IPFamily

Address = IPv4Address | IPv6Address


class ListenerAddresses:
    """The addresses and ports of the listeners of one protocol in this process.

    ``endpoint in listener_addresses`` looks its port up. Only where a listener has the same port the kernel is asked
    whether the endpoint's address is one of this node.
    """

    def __init__(self) -> None:
        self._hosts: defaultdict[int, dict[IPFamily, Address]] = defaultdict(dict)
        self.ports: Container[int] = self._hosts.keys()
        """Ports of listeners: an endpoint at another one need not be looked up."""

    def add(self, family: IPFamily, host: str, port: int) -> None:
        """Note that the listener of `family` at `port` is bound to `host`, which may be a wildcard."""
        self._hosts[port][family] = _parsed(host)

    def discard(self, family: IPFamily, port: int) -> None:
        """Forget a listener that was added."""
        del self._hosts[port][family]
        if not self._hosts[port]:
            del self._hosts[port]

    def __contains__(self, endpoint: Endpoint) -> bool:
        """Whether a connection to `endpoint` would arrive at a listener. Raises OSError if no socket can be made."""
        return endpoint.port in self._hosts and self._leads_here(endpoint)

    def _leads_here(self, endpoint: Endpoint) -> bool:
        address = address_on_this_node(endpoint)
        return address is not None and any(
            host == address or (host.is_unspecified and host.version == address.version)
            for host in self._hosts[endpoint.port].values()
        )


@lru_cache(maxsize=64)
def _parsed(host: str) -> Address:
    """Thousands of listeners are bound to the same few addresses."""
    return ip_address(host)


def address_on_this_node(endpoint: Endpoint) -> Address | None:
    """The address of this node at which a connection to `endpoint` arrives; None if it leaves the node.

    A UDP socket is asked, since connect(2) sends nothing there but chooses addresses all the same: what goes to an
    address of the node comes from that same address, or is loopback.
    """
    with socket.socket(socket_family(endpoint.ip), socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((endpoint.ip, endpoint.port))
            source, destination = _address(probe.getsockname()), _address(probe.getpeername())
        except OSError:  # no route: the dial will say the same
            return None
    return destination if source == destination or destination.is_loopback else None


def _address(name: tuple[str, int]) -> Address:
    """The address in what getsockname(2) says; an IPv4 one also where an IPv6 socket was connected to it."""
    address = ip_address(name[0])
    return getattr(address, "ipv4_mapped", None) or address
