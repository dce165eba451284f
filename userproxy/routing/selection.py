"""Which endpoints of a service port get new connections.

The rules are those of kube-proxy's ``CategorizeEndpoints`` (KEP-1669, KEP-2086, KEP-2433, KEP-3015).
"""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from userproxy.model import Endpoint, EndpointSlice, Hints, IPFamily, Protocol, SliceEndpoint


class Locality(Struct, frozen=True):
    """Where we are: the name of our Node and its label ``topology.kubernetes.io/zone``, None without one."""

    node: str = ""
    zone: str | None = None


class Selection(Struct, frozen=True, gc=False):
    """The endpoints of one service port by policy, sorted.

    ``cluster`` and ``local`` are None where no traffic uses the list. ``has_any`` is whether there is an endpoint
    that could serve, were it not for a policy.
    """

    cluster: tuple[Endpoint, ...] | None
    local: tuple[Endpoint, ...] | None
    has_any: bool


def candidates(
    slices: Iterable[EndpointSlice], port_name: str, protocol: Protocol, family: IPFamily = IPFamily.IPV4
) -> dict[Endpoint, SliceEndpoint]:
    """All endpoints of a service port that slices of `family` name, and what they say of each.

    Slices belong to the service port by port name and protocol. The slice's port number is the destination; a
    Service's ``targetPort`` plays no part. Where an endpoint is listed twice (it is just moving to another slice),
    the last one that is not terminating counts, else the first.
    """
    found: dict[Endpoint, SliceEndpoint] = {}
    for slice_ in slices:
        if slice_.address_type != family:
            continue
        for port in slice_.ports:
            if port.name != port_name or port.protocol != protocol:
                continue
            number = port.port
            named = {Endpoint(source.address, number): source for source in slice_.endpoints}
            if not found and len(named) == len(slice_.endpoints):  # nearly all Services have one slice
                found = named
                continue
            for source in slice_.endpoints:
                endpoint = Endpoint(source.address, number)
                if not source.terminating or endpoint not in found:
                    found[endpoint] = source
    return found


def select(
    candidates: Mapping[Endpoint, SliceEndpoint],
    *,
    internal_local: bool = False,
    external_local: bool = False,
    externally_accessible: bool = False,
    locality: Locality,
    hints_exclude: bool = True,
) -> Selection:
    """Which of the `candidates` serve a service port.

    `internal_local` and `external_local` are whether its traffic policies say ``Local``; `externally_accessible` is
    whether it has a portal besides cluster IPs. Endpoints that terminate serve for as long as they can when no ready
    one is left in their list; a list of local endpoints does not look at what is ready elsewhere. Unless
    `hints_exclude`, those who are hinted to others serve, too.
    """
    ready = sorted([endpoint for endpoint, source in candidates.items() if source.ready])
    uses_cluster = not internal_local or externally_accessible
    uses_local = internal_local or (external_local and externally_accessible)
    if ready and not uses_local:
        return Selection(hinted(ready, candidates, locality) if hints_exclude else tuple(ready), None, has_any=True)
    draining = sorted([e for e, source in candidates.items() if source.serving and source.terminating])
    near = hinted(ready, candidates, locality) if hints_exclude else tuple(ready)
    return Selection(
        cluster=(near or tuple(draining)) if uses_cluster else None,
        local=(_local(ready, candidates, locality) or _local(draining, candidates, locality)) if uses_local else None,
        has_any=bool(ready or draining),
    )


def _local(
    endpoints: Sequence[Endpoint], candidates: Mapping[Endpoint, SliceEndpoint], locality: Locality
) -> tuple[Endpoint, ...]:
    return tuple([endpoint for endpoint in endpoints if candidates[endpoint].node == locality.node])


def hinted(
    ready: Sequence[Endpoint], candidates: Mapping[Endpoint, SliceEndpoint], locality: Locality
) -> tuple[Endpoint, ...]:
    """The `ready` endpoints hinted to our node, else to our zone; all of them unless every one has such a hint."""
    hints: list[Hints] = []
    for endpoint in ready:
        hint = candidates[endpoint].hints
        if hint is None:
            return tuple(ready)
        hints.append(hint)
    for here, hinted in ((locality.node, [h.nodes for h in hints]), (locality.zone, [h.zones for h in hints])):
        if here and all(hinted):
            near = tuple([endpoint for endpoint, names in zip(ready, hinted, strict=True) if here in names])
            if near:
                return near
    return tuple(ready)
