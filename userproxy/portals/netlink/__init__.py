"""Netlink: what the kernel tells of addresses, sockets and connections, and how it is asked.

``protocol`` has the layout that all of netlink shares, and its names stand here as well. Each other module is one part
of the kernel: ``rtnetlink`` for addresses, links and routes, ``sock_diag`` for sockets, ``conntrack`` for connections.
"""

from userproxy.portals.netlink.protocol import (
    ACK,
    CHUNK,
    DONE,
    DUMP,
    ERROR,
    NETFILTER,
    NETFILTER_HEADER_SIZE,
    REQUEST,
    ROUTE,
    Place,
    address_text,
    attribute,
    attributes,
    dump,
    get,
    message,
    messages,
    nested,
    netfilter_header,
    netlink_socket,
    raise_for_code,
    whole,
)

__all__ = [
    "ACK",
    "CHUNK",
    "DONE",
    "DUMP",
    "ERROR",
    "NETFILTER",
    "NETFILTER_HEADER_SIZE",
    "REQUEST",
    "ROUTE",
    "Place",
    "address_text",
    "attribute",
    "attributes",
    "dump",
    "get",
    "message",
    "messages",
    "nested",
    "netfilter_header",
    "netlink_socket",
    "raise_for_code",
    "whole",
]
