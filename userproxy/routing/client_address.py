"""Whose address a backend sees: that of the client, or that of the node. Pure.

AUTO keeps the client's where kube-proxy does, and also where answers are certain to come back: those to a Pod of this
node arrive here, wherever they come from, and those of a Pod of this node leave by it.
"""

from typing import Final

from userproxy.model import ClientAddress, Endpoint, TrafficClass

NODE_ASKED_FOR: Final = (False, "the node's address is asked for")
_CLIENT_IS_NODE: Final = (False, "the client is the node itself")
_HAIRPIN: Final = (False, "the endpoint is the client itself, and would drop what comes from its own address")
_ENDPOINT_IS_NODE: Final = (False, "the endpoint has the node's own address, so its answers never leave the node")
_KEEP_ASKED_FOR: Final = (True, "the client's address is asked for, wherever that is possible")
_CLIENT_IS_HERE: Final = (True, "the client is a Pod of this node, so answers to it come by this node")
_ENDPOINT_IS_HERE: Final = (True, "the endpoint is on this node, so its answers leave by this node")
_BOTH_ELSEWHERE: Final = (False, "neither client nor endpoint is on this node, so answers would not come by it")


def keeps_client_address(
    wanted: ClientAddress,
    client: str,
    endpoint: Endpoint,
    *,
    client_is_pod_here: bool,
    client_is_node: bool,
    endpoint_is_here: bool,
    traffic: TrafficClass,
    endpoint_is_node: bool = False,
) -> tuple[bool, str]:
    """Whether the endpoint is to see the client's address, and why or why not: a clause.

    A client of ON_NODE traffic that is not the node itself is a Pod of this node. `endpoint_is_node` is whether the
    endpoint has an address of this node, as one with hostNetwork does. Whether the host can do it, and whether answers
    have come back so far, is not known here.
    """
    if wanted is ClientAddress.NODE:
        return NODE_ASKED_FOR
    if client_is_node:
        return _CLIENT_IS_NODE
    if client == endpoint.ip:
        return _HAIRPIN
    if endpoint_is_node:
        return _ENDPOINT_IS_NODE
    if wanted is ClientAddress.KEEP:
        return _KEEP_ASKED_FOR
    if client_is_pod_here or traffic is TrafficClass.ON_NODE:
        return _CLIENT_IS_HERE
    return _ENDPOINT_IS_HERE if endpoint_is_here else _BOTH_ELSEWHERE
