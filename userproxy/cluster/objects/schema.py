"""The shape of Kubernetes objects in the API: only the fields that are read, and null wherever the API allows it.

The same structs fit plain dicts (a manifest) and JSON bytes (the API server). They say what type a field has;
:mod:`userproxy.cluster.objects.validation` checks the values. All other fields are skipped.
"""

from typing import Any

import msgspec
from msgspec import Struct, field

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding bytes may raise: they are another object, no JSON, not UTF-8, or nested too deeply."""


class RawLabels(Struct, frozen=True, gc=False):
    """The labels that are read."""

    service_name: str | None = field(name="kubernetes.io/service-name", default=None)
    service_proxy_name: str | None = field(name="service.kubernetes.io/service-proxy-name", default=None)
    zone: str | None = field(name="topology.kubernetes.io/zone", default=None)
    userproxy: str | None = field(name="userproxy.io/node", default=None)


class RawMetadata(Struct, frozen=True, rename="camel", gc=False):
    """A version in a manifest may be a number, which must not cost the object."""

    name: str | None = None
    namespace: str | None = None
    resource_version: Any = None
    labels: RawLabels | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None


class RawServiceMetadata(RawMetadata, frozen=True, rename="camel"):
    """An annotation in a manifest may be something else than text, which must not cost the Service."""

    annotations: dict[str, Any] | None = None
    uid: str | None = None


class RawSliceAnnotations(Struct, frozen=True, gc=False):
    """``time`` is that by which the time from a change to its rules is measured. Either may hold anything."""

    time: Any = field(name="endpoints.kubernetes.io/last-change-trigger-time", default=None)
    weights: Any = field(name="userproxy.io/weights", default=None)


class RawSliceMetadata(RawMetadata, frozen=True, rename="camel"):
    annotations: RawSliceAnnotations | None = None


class RawServicePort(Struct, frozen=True, rename="camel", gc=False):
    name: str | None = None
    protocol: str | None = None
    port: int | None = None
    node_port: int | None = None


class RawClientIP(Struct, frozen=True, rename="camel", gc=False):
    timeout_seconds: int | None = None


class RawAffinityConfig(Struct, frozen=True, gc=False):
    client_ip: RawClientIP | None = field(name="clientIP", default=None)


class RawServiceSpec(Struct, frozen=True, rename="camel", gc=False):
    type: str | None = None
    cluster_ip: str | None = field(name="clusterIP", default=None)
    cluster_ips: list[str] | None = field(name="clusterIPs", default=None)
    ip_families: list[str] | None = None
    external_ips: list[str | None] | None = field(name="externalIPs", default=None)
    ports: list[RawServicePort] | None = None
    session_affinity: str | None = None
    session_affinity_config: RawAffinityConfig | None = None
    internal_traffic_policy: str | None = None
    external_traffic_policy: str | None = None
    load_balancer_source_ranges: list[str | None] | None = None
    health_check_node_port: int | None = None


class RawIngress(Struct, frozen=True, rename="camel", gc=False):
    ip: str | None = None
    ip_mode: str | None = None


class RawLoadBalancer(Struct, frozen=True, gc=False):
    ingress: list[RawIngress] | None = None


class RawServiceStatus(Struct, frozen=True, rename="camel", gc=False):
    load_balancer: RawLoadBalancer | None = None


class RawService(Struct, frozen=True, gc=False):
    metadata: RawServiceMetadata | None = None
    spec: RawServiceSpec | None = None
    status: RawServiceStatus | None = None


class RawEndpointPort(Struct, frozen=True, gc=False):
    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class RawConditions(Struct, frozen=True, gc=False):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class RawHint(Struct, frozen=True, gc=False):
    name: str | None = None


class RawHints(Struct, frozen=True, rename="camel", gc=False):
    for_zones: list[RawHint] | None = None
    for_nodes: list[RawHint] | None = None


class RawTarget(Struct, frozen=True, gc=False):
    """Of what an endpoint is: the name of a Pod."""

    name: str | None = None


class RawEndpoint(Struct, frozen=True, rename="camel", gc=False):
    addresses: list[str] | None = None
    conditions: RawConditions | None = None
    node_name: str | None = None
    hints: RawHints | None = None
    zone: str | None = None
    target_ref: RawTarget | None = None


class RawEndpointSlice(Struct, frozen=True, rename="camel", gc=False):
    metadata: RawSliceMetadata | None = None
    address_type: str | None = None
    ports: list[RawEndpointPort] | None = None
    endpoints: list[RawEndpoint] | None = None


class RawEndpointAddress(Struct, frozen=True, rename="camel", gc=False):
    ip: str | None = None
    node_name: str | None = None
    target_ref: RawTarget | None = None


class RawSubset(Struct, frozen=True, rename="camel", gc=False):
    addresses: list[RawEndpointAddress] | None = None
    not_ready_addresses: list[RawEndpointAddress] | None = None
    ports: list[RawEndpointPort] | None = None


class RawEndpoints(Struct, frozen=True, gc=False):
    metadata: RawSliceMetadata | None = None
    subsets: list[RawSubset] | None = None


class RawTaint(Struct, frozen=True, gc=False):
    key: str | None = None


class RawNodeSpec(Struct, frozen=True, gc=False):
    pod_cidr: str | None = field(name="podCIDR", default=None)
    pod_cidrs: list[str] | None = field(name="podCIDRs", default=None)
    taints: list[RawTaint] | None = None


class RawNodeAddress(Struct, frozen=True, gc=False):
    type: str | None = None
    address: str | None = None


class RawNodeStatus(Struct, frozen=True, gc=False):
    addresses: list[RawNodeAddress] | None = None


class RawNode(Struct, frozen=True, gc=False):
    metadata: RawMetadata | None = None
    spec: RawNodeSpec | None = None
    status: RawNodeStatus | None = None
