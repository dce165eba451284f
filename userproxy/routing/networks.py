"""Networks to look addresses up in, of both families."""

import ipaddress
from collections.abc import Iterable


class Networks:
    """A set of networks: whether an address is in one of them takes a look for each length of prefix that they have."""

    __slots__ = ("_by_mask",)

    def __init__(self, networks: Iterable[str]) -> None:
        """Raises ValueError for what is no network."""
        by_mask: dict[tuple[int, int], set[int]] = {}
        for each in networks:
            network = ipaddress.ip_network(each)
            key = network.version, int(network.netmask)
            by_mask.setdefault(key, set()).add(int(network.network_address))
        self._by_mask = tuple((*key, frozenset(numbers)) for key, numbers in by_mask.items())

    def __bool__(self) -> bool:
        return bool(self._by_mask)

    def __contains__(self, ip: str) -> bool:
        """Whether a valid address, also with the name of an interface behind it, is in one of the networks."""
        if not self._by_mask:
            return False
        address = ipaddress.ip_address(ip.partition("%")[0])
        number, version = int(address), address.version
        return any(each == version and number & mask in numbers for each, mask, numbers in self._by_mask)
