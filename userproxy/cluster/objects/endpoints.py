"""EndpointSlices and Endpoints, from the API's shape to the model's EndpointSlice."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from sys import intern
from typing import Final

from msgspec import structs

from userproxy.addresses import family_of
from userproxy.cluster.objects import schema
from userproxy.cluster.objects.validation import Checker, interned, parse_time
from userproxy.cluster.objects.weights import canonical, read_weights
from userproxy.model import EndpointSlice, Hints, IPFamily, SliceEndpoint, SlicePort

_NO_CONDITIONS = schema.RawConditions()
_FAMILIES: Final[dict[str | None, IPFamily]] = {family.value: family for family in IPFamily}


def decode_slice(item: schema.RawEndpointSlice, checker: Checker) -> tuple[EndpointSlice, ...]:
    """A discovery.k8s.io/v1 EndpointSlice; none where its addresses are of type FQDN, which no proxy serves.

    A slice that names no Service is legal and not used; in a manifest that is a mistake. An endpoint with a bad address
    is left out.
    """
    metadata = item.metadata or schema.RawSliceMetadata()
    labels = metadata.labels or schema.RawLabels()
    namespace = checker.namespace(metadata.namespace)
    name = checker.subdomain("metadata.name", checker.present("metadata.name", metadata.name))
    if not labels.service_name and not checker.from_manifest:
        return ()
    if not labels.service_name:
        raise checker.error(
            "metadata.labels", "kubernetes.io/service-name is missing, so the slice belongs to no Service"
        )
    kind = _FAMILIES.get(item.address_type)
    if kind is None:
        checker.choice("addressType", checker.present("addressType", item.address_type), (*IPFamily, "FQDN"))
        checker.note("addressType", '"FQDN" is not served, only IPv4 and IPv6')
        return ()
    usable = _slice_endpoints(item.endpoints or (), kind, checker)
    ports = _endpoint_ports("ports", tuple(item.ports or ()), checker)
    service = interned(labels.service_name)
    found = EndpointSlice(namespace, name, service, kind, ports, usable, _triggered(metadata))
    if metadata.annotations is None or metadata.annotations.weights is None:
        return (found,)
    pods = ((each.addresses[0], each.target_ref) for each in item.endpoints or () if each.addresses)
    return _weighted([found], f"EndpointSlice {namespace}/{name}", metadata.annotations.weights, pods)


def _weighted(
    slices: Sequence[EndpointSlice],
    name: str,
    annotation: object,
    pods: Iterable[tuple[str | None, schema.RawTarget | None]],
) -> tuple[EndpointSlice, ...]:
    """The slices of an object with their endpoints' weights, by their addresses or else by the names of their Pods."""
    weights, complaint = read_weights(name, annotation)
    if complaint:
        return tuple(structs.replace(each, bad_annotations=(complaint,)) for each in slices)
    names = {canonical(address): pod.name for address, pod in pods if address and pod is not None}
    return tuple(
        structs.replace(
            found,
            endpoints=tuple(
                structs.replace(each, weight=_weight(weights, each.address, names.get(each.address)))
                for each in found.endpoints
            ),
            weighted=True,
        )
        for found in slices
    )


def _weight(weights: Mapping[str, int], address: str, pod: str | None) -> int:
    return weights.get(address, weights.get(pod or "", 1))


def _triggered(metadata: schema.RawSliceMetadata) -> float | None:
    time = parse_time(metadata.annotations.time) if metadata.annotations else None
    return time.timestamp() if time else None


def _slice_endpoints(
    endpoints: Sequence[schema.RawEndpoint], kind: IPFamily, checker: Checker
) -> tuple[SliceEndpoint, ...]:
    """Endpoints with their first address: all are of the same Pod, and kube-proxy too uses only the first.

    One whose address is bad, which the checker notes, is left out. A slice of a thousand endpoints is read anew
    whenever one changes, so what is done for each of them is done here, without a call of our own.
    """
    found = []
    is_plain = checker.is_plain_destination if kind is IPFamily.IPV4 else _never
    for index, endpoint in enumerate(endpoints):
        addresses = endpoint.addresses
        if not addresses:
            continue
        address = addresses[0]
        if not is_plain(address):
            checked = checker.attempt(checker.destination, f"endpoints[{index}].addresses[0]", address, kind)
            if checked is None:
                continue
            address = checked
        conditions, node, zone = endpoint.conditions or _NO_CONDITIONS, endpoint.node_name, endpoint.zone
        found.append(
            SliceEndpoint(
                address,
                conditions.ready is not False,
                conditions.serving is not False,
                conditions.terminating is True,
                intern(node) if node else None,
                _hints(endpoint.hints) if endpoint.hints else None,
                intern(zone) if zone else None,
            )
        )
    return tuple(found)


def _never(_address: str) -> None:
    """No text is an ordinary IPv6 address: one address has many."""


def _name(name: str | None) -> str | None:
    return interned(name) if name else None


def _hints(hints: schema.RawHints) -> Hints | None:
    zones, nodes = _names(hints.for_zones), _names(hints.for_nodes)
    return _shared_hints(zones, nodes) if zones or nodes else None


def _names(hints: Sequence[schema.RawHint] | None) -> tuple[str, ...]:
    if not hints:
        return ()
    if len(hints) == 1 and hints[0].name:  # a shortcut for nearly all endpoints, in a third of the time
        return (hints[0].name,)
    return tuple(dict.fromkeys(hint.name for hint in hints if hint.name))


@lru_cache(maxsize=8192)
def _shared_hints(zones: tuple[str, ...], nodes: tuple[str, ...]) -> Hints:
    """The same value for all equal hints: there are tens of thousands of endpoints and few zones and nodes."""
    return Hints(zones, nodes)


def _endpoint_ports(path: str, ports: tuple[schema.RawEndpointPort, ...], checker: Checker) -> tuple[SlicePort, ...]:
    """Ports with a number. One without would mean all ports, which kube-proxy does not serve either."""
    return _usual_ports(ports) or _checked_ports(path, ports, checker)


@lru_cache(maxsize=8192)
def _usual_ports(ports: tuple[schema.RawEndpointPort, ...]) -> tuple[SlicePort, ...] | None:
    """The same tuple for all equal ports, since most slices have one of a few; None where anything is to be said."""
    checker = Checker("")
    found = checker.attempt(_checked_ports, "", ports, checker)
    return None if checker.problems else found


def _checked_ports(path: str, ports: Sequence[schema.RawEndpointPort], checker: Checker) -> tuple[SlicePort, ...]:
    found = []
    for index, port in enumerate(ports):
        here = f"{path}[{index}]"
        name = checker.label(f"{here}.name", port.name) if port.name else ""
        protocol = checker.protocol(f"{here}.protocol", port.protocol)
        if port.port:
            number = _number(f"{here}.port", port.port, checker)
            found += [SlicePort(name, protocol, number)] if number else []
        else:
            checker.note(f"{here}.port", "missing, and no proxy serves all ports")
    if len(ports) > 1:
        checker.unique(path, (port.name or "" for port in ports), "name", "name")
    return tuple(found)


def _number(path: str, number: int, checker: Checker) -> int | None:
    """A port number. API servers accept any number in an EndpointSlice, and there a bad one costs only its port."""
    return checker.port(path, number) if checker.from_manifest else checker.attempt(checker.port, path, number)


def decode_endpoints(item: schema.RawEndpoints, checker: Checker) -> tuple[EndpointSlice, ...]:
    """A core/v1 Endpoints object: one slice for each subset and address family in it.

    An endpoint with a bad address is left out.
    """
    metadata = item.metadata or schema.RawSliceMetadata()
    namespace = checker.namespace(metadata.namespace)
    service = checker.subdomain("metadata.name", checker.present("metadata.name", metadata.name))
    slices = []
    for index, subset in enumerate(item.subsets or ()):
        path = f"subsets[{index}]"
        ports = _endpoint_ports(f"{path}.ports", tuple(subset.ports or ()), checker)
        endpoints = [
            *_subset_endpoints(f"{path}.addresses", subset.addresses or (), checker, ready=True),
            *_subset_endpoints(f"{path}.notReadyAddresses", subset.not_ready_addresses or (), checker, ready=False),
        ]
        for kind in IPFamily:
            members = tuple(endpoint for endpoint in endpoints if family_of(endpoint.address) == kind)
            if members:
                name = f"{service}-endpoints-{index}-{kind.lower()}"
                slices.append(EndpointSlice(namespace, name, service, kind, ports, members, _triggered(metadata)))
    if metadata.annotations is None or metadata.annotations.weights is None:
        return tuple(slices)
    pods = [
        (each.ip, each.target_ref)
        for subset in item.subsets or ()
        for each in (*(subset.addresses or ()), *(subset.not_ready_addresses or ()))
    ]
    heading = f"Endpoints {namespace}/{service}"
    return _weighted(slices, heading, metadata.annotations.weights, pods)


def _subset_endpoints(
    path: str, addresses: Sequence[schema.RawEndpointAddress], checker: Checker, *, ready: bool
) -> list[SliceEndpoint]:
    endpoints = (
        checker.attempt(_subset_endpoint, f"{path}[{index}].ip", address, checker, ready=ready)
        for index, address in enumerate(addresses)
    )
    return [endpoint for endpoint in endpoints if endpoint]


def _subset_endpoint(path: str, address: schema.RawEndpointAddress, checker: Checker, *, ready: bool) -> SliceEndpoint:
    ip = checker.destination(path, checker.present(path, address.ip))
    return SliceEndpoint(ip, ready=ready, serving=ready, node=_name(address.node_name))
