"""Endpoints as the tables of kube-proxy's behaviour write them: ``Rl Rr(zA) S(n1,zB) N``.

``R`` is ready, ``S`` serving while it terminates, ``N`` neither. ``l`` is on this node, ``r`` (or nothing) on another
one. In brackets are hints: ``zA`` for zone A, ``n1`` for node n1.
"""

import re

from userproxy.model import Endpoint, EndpointSlice, Hints, Protocol, SliceEndpoint, SlicePort
from userproxy.routing.selection import Locality

NODE = "n1"
PORT = 8080
HTTP = SlicePort("http", Protocol.TCP, PORT)

_TOKEN = re.compile(r"([RSN])([lr]?)(?:\(([^)]*)\))?")


def parse(text: str, node: str = NODE) -> dict[str, SliceEndpoint]:
    """The endpoints of a row by how they are written there, each with an address of its own."""
    endpoints = {}
    for number, found in enumerate(_TOKEN.finditer(text), 1):
        state, place, hints = found.groups(default="")
        words = [word.strip() for word in hints.split(",")]
        endpoints[found[0]] = SliceEndpoint(
            f"10.244.0.{number}",
            ready=state == "R",
            serving=state in "RS",
            terminating=state == "S",
            node=node if place == "l" else "another",
            hints=Hints(
                zones=tuple(word[1:] for word in words if word.startswith("z")),
                nodes=tuple(word for word in words if re.fullmatch(r"n\d", word)),
            )
            if found[3]
            else None,
        )
    assert len(endpoints) == len(text.split()) - text.count("no hint"), f"not understood: {text}"
    return endpoints


def named(text: str | None, endpoints: dict[str, SliceEndpoint]) -> tuple[Endpoint, ...] | None:
    """Those of the row's endpoints that `text` writes in the same way; None for a list that is not used."""
    return None if text is None else tuple(Endpoint(endpoints[word].address, PORT) for word in parse(text))


def a_slice(
    *endpoints: SliceEndpoint, ports: tuple[SlicePort, ...] = (HTTP,), family: str = "IPv4", name: str = "web-1"
) -> EndpointSlice:
    return EndpointSlice("default", name, "web", family, ports, endpoints)


def locality(node: str = NODE, zone: str | None = None) -> Locality:
    return Locality(node, zone)
