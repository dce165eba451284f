"""Netlink: what the kernel tells of addresses, sockets, connections and rules, when it is asked and of its own accord.

``protocol`` has the layout that all of netlink shares, and its names stand here as well. Asked are ``rtnetlink`` for
addresses, links and routes, ``sock_diag`` for sockets and ``conntrack`` for connections. ``notifications`` come by
themselves: ``network_changes`` are those of addresses, links and routes, ``transactions`` those of nf_tables, and
``ruleset`` tells which of these are somebody else's.
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
    error_code,
    get,
    message,
    messages,
    nested,
    netfilter_header,
    netlink_socket,
    places,
    raise_for_code,
    sequence_of,
    text_at,
    text_attribute,
    text_of,
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
    "error_code",
    "get",
    "message",
    "messages",
    "nested",
    "netfilter_header",
    "netlink_socket",
    "places",
    "raise_for_code",
    "sequence_of",
    "text_at",
    "text_attribute",
    "text_of",
    "whole",
]
