"""What Services lead to, from its raw shape: EndpointSlices, Endpoints, Nodes."""

import sys
from collections.abc import Sequence

from userproxy.cluster import raw
from userproxy.cluster.checks import FAMILIES, Checker, family
from userproxy.model import EndpointSlice, Node, SliceEndpoint, SlicePort


def decode_slice(item: raw.RawEndpointSlice, checker: Checker) -> tuple[EndpointSlice, ...]:
    """A discovery.k8s.io/v1 EndpointSlice; none where its addresses are of type FQDN, which no proxy serves."""
    metadata = item.metadata or raw.RawMetadata()
    labels = metadata.labels or raw.RawLabels()
    namespace = checker.namespace(metadata.namespace)
    name = checker.subdomain("metadata.name", checker.present("metadata.name", metadata.name))
    if not labels.service_name:
        raise checker.error(
            "metadata.labels", "kubernetes.io/service-name is missing, so the slice belongs to no Service"
        )
    kind = checker.choice("addressType", checker.present("addressType", item.address_type), (*FAMILIES, "FQDN"))
    if kind == "FQDN":
        checker.note("addressType", '"FQDN" is not served, only IPv4 and IPv6')
        return ()
    endpoints = [
        _slice_endpoint(f"endpoints[{index}].addresses[0]", endpoint, kind, checker)
        for index, endpoint in enumerate(item.endpoints or ())
        if endpoint.addresses
    ]
    ports = _endpoint_ports("ports", item.ports or (), checker)
    return (EndpointSlice(namespace, name, labels.service_name, kind, ports, tuple(endpoints)),)


def _slice_endpoint(path: str, endpoint: raw.RawEndpoint, kind: str, checker: Checker) -> SliceEndpoint:
    """Only the first address counts: the others are the same Pod, and no consumer reads them."""
    conditions = endpoint.conditions or raw.RawConditions()
    return SliceEndpoint(
        address=checker.host(path, (endpoint.addresses or [""])[0], kind),
        ready=conditions.ready is not False,
        serving=conditions.serving is not False,
        terminating=conditions.terminating is True,
        node=_shared(endpoint.node_name),
        zone=_shared(endpoint.zone),
    )


def _shared(name: str | None) -> str | None:
    """One text for all that are equal: a few nodes and zones are named by ten thousands of endpoints."""
    return sys.intern(name) if name else None


def _endpoint_ports(path: str, ports: Sequence[raw.RawEndpointPort], checker: Checker) -> tuple[SlicePort, ...]:
    """A port without a number would mean all ports, which kube-proxy does not serve either."""
    found = []
    for index, port in enumerate(ports):
        here = f"{path}[{index}]"
        name = checker.label(f"{here}.name", port.name) if port.name else ""
        protocol = checker.protocol(f"{here}.protocol", port.protocol)
        if port.port:
            found.append(SlicePort(name, protocol, checker.port(f"{here}.port", port.port)))
        else:
            checker.note(f"{here}.port", "missing, and no proxy serves all ports")
    checker.unique(path, (port.name or "" for port in ports), "name", "name")
    return tuple(found)


def decode_endpoints(item: raw.RawEndpoints, checker: Checker) -> tuple[EndpointSlice, ...]:
    """A core/v1 Endpoints object: one slice for each subset and address family in it."""
    metadata = item.metadata or raw.RawMetadata()
    namespace = checker.namespace(metadata.namespace)
    service = checker.subdomain("metadata.name", checker.present("metadata.name", metadata.name))
    slices = []
    for index, subset in enumerate(item.subsets or ()):
        path = f"subsets[{index}]"
        ports = _endpoint_ports(f"{path}.ports", subset.ports or (), checker)
        endpoints = [
            *_subset_endpoints(f"{path}.addresses", subset.addresses or (), checker, ready=True),
            *_subset_endpoints(f"{path}.notReadyAddresses", subset.not_ready_addresses or (), checker, ready=False),
        ]
        for kind in FAMILIES:
            members = tuple(endpoint for endpoint in endpoints if family(endpoint.address) == kind)
            if members:
                name = f"{service}-endpoints-{index}-{kind.lower()}"
                slices.append(EndpointSlice(namespace, name, service, kind, ports, members))
    return tuple(slices)


def _subset_endpoints(
    path: str, addresses: Sequence[raw.RawEndpointAddress], checker: Checker, *, ready: bool
) -> list[SliceEndpoint]:
    endpoints = []
    for index, address in enumerate(addresses):
        here = f"{path}[{index}].ip"
        ip = checker.host(here, checker.present(here, address.ip))
        endpoints.append(SliceEndpoint(ip, ready=ready, serving=ready, node=_shared(address.node_name)))
    return endpoints


def decode_node(item: raw.RawNode, checker: Checker) -> Node:
    """A core/v1 Node: internal addresses before external ones, other types (Hostname) left out."""
    metadata = item.metadata or raw.RawMetadata()
    labels = metadata.labels or raw.RawLabels()
    spec = item.spec or raw.RawNodeSpec()
    found = (item.status.addresses or []) if item.status else []
    cidrs = spec.pod_cidrs or ([spec.pod_cidr] if spec.pod_cidr else [])
    return Node(
        name=checker.subdomain("metadata.name", checker.present("metadata.name", metadata.name)),
        addresses=tuple(
            checker.host(f"status.addresses[{index}].address", entry.address or "")
            for wanted in ("InternalIP", "ExternalIP")
            for index, entry in enumerate(found)
            if entry.type == wanted
        ),
        zone=labels.zone or None,
        pod_cidrs=tuple(checker.network(f"spec.podCIDRs[{index}]", cidr) for index, cidr in enumerate(cidrs)),
        deleting=bool(metadata.deletion_timestamp),
        taints=tuple(taint.key for taint in spec.taints or () if taint.key),
    )
