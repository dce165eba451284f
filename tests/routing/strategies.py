"""Slices of one service port as hypothesis draws them, small enough that everything meets everything."""

from typing import Any

from hypothesis import strategies as st

from tests.routing.notation import a_slice
from userproxy.model import EndpointSlice, Hints, Protocol, SliceEndpoint, SlicePort
from userproxy.routing.selection import Locality

NODES, ZONES = ("n1", "n2"), ("A", "B")

localities = st.builds(Locality, st.sampled_from(NODES), st.sampled_from((*ZONES, "C", None)))

_zones = st.sampled_from((("A",), ("B",), ("A", "B")))
_nodes = st.sampled_from((("n1",), ("n2",), ("n1", "n2")))
_HINTS = (
    st.none(),
    st.builds(Hints, zones=_zones),
    st.builds(Hints, zones=_zones, nodes=_nodes),
    st.one_of(st.none(), st.builds(Hints, zones=st.just(()) | _zones, nodes=st.just(()) | _nodes)),
)


@st.composite
def slices(draw: st.DrawFn) -> list[EndpointSlice]:
    """Up to three slices; whoever writes the hints does so for all endpoints alike, or for some."""
    hints = draw(st.sampled_from(_HINTS))
    endpoints = st.builds(
        SliceEndpoint,
        address=st.sampled_from([f"10.244.0.{number}" for number in range(1, 7)]),
        ready=st.booleans(),
        serving=st.booleans(),
        terminating=st.booleans(),
        node=st.sampled_from((*NODES, None)),
        hints=hints,
    )
    ports = st.sampled_from((8080, 9090)).map(lambda port: (SlicePort("http", Protocol.TCP, port),))
    several = st.lists(st.tuples(ports, st.lists(endpoints, max_size=4)), max_size=3)
    return [a_slice(*members, ports=port, name=f"web-{number}") for number, (port, members) in enumerate(draw(several))]


def rows(slices: list[EndpointSlice]) -> list[dict[str, Any]]:
    """What the oracle knows of endpoints."""
    return [
        {
            "key": (endpoint.address, slice_.ports[0].port),
            "ready": endpoint.ready,
            "serving": endpoint.serving,
            "terminating": endpoint.terminating,
            "node": endpoint.node,
            "zones": set(endpoint.hints.zones) if endpoint.hints else set(),
            "nodes": set(endpoint.hints.nodes) if endpoint.hints else set(),
        }
        for slice_ in slices
        for endpoint in slice_.endpoints
    ]
