"""A balancer for userproxy: clients of one network, such as the Pods of one node, have the same endpoint."""

from collections.abc import Collection, Sequence
from hashlib import blake2b
from ipaddress import ip_network

from userproxy.model import Endpoint


class ByNetwork:
    """The endpoint whose hash with the client's network is the highest, the same on every node.

    userproxy makes one for the endpoints that there are, and another one when they, or their weights, are others.
    """

    def __init__(self, endpoints: Sequence[Endpoint], _weights: Sequence[int]) -> None:
        self._endpoints = endpoints

    def choose(self, client: str, avoided: Collection[Endpoint]) -> Endpoint:
        """The endpoint for a new connection. `avoided` have failed; they are never all."""
        bits = 64 if ":" in client else 24
        network = ip_network(f"{client}/{bits}", strict=False)
        usable = (endpoint for endpoint in self._endpoints if endpoint not in avoided)
        return max(usable, key=lambda endpoint: blake2b(f"{network} {endpoint}".encode()).digest())
