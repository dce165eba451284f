"""Kubernetes objects as plain values, to be bent into every wrong shape."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import yaml

from userproxy.cluster.objects.keys import ClusterObject, object_key
from userproxy.cluster.store import Store

Path: TypeAlias = tuple[str | int, ...]

SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {
        "name": "web",
        "namespace": "shop",
        "labels": {"service.kubernetes.io/service-proxy-name": "mine"},
        "annotations": {
            "userproxy.io/on-endpoint-removal": "close",
            "userproxy.io/udp-timeout": "1m30s",
            "example.com/team": "shop",
        },
        "creationTimestamp": "2026-01-31T12:00:00Z",
    },
    "spec": {
        "type": "LoadBalancer",
        "clusterIP": "10.96.0.10",
        "clusterIPs": ["10.96.0.10", "fd00::10"],
        "ipFamilies": ["IPv4", "IPv6"],
        "externalIPs": ["203.0.113.5"],
        "ports": [
            {"name": "http", "protocol": "TCP", "port": 80, "nodePort": 30080},
            {"name": "dns", "protocol": "UDP", "port": 53},
        ],
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}},
        "internalTrafficPolicy": "Local",
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 32000,
        "loadBalancerSourceRanges": ["10.0.0.0/8", "fd00::/8"],
    },
    "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.7", "ipMode": "VIP"}]}},
}
SLICE: dict[str, Any] = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "metadata": {
        "name": "web-1",
        "namespace": "shop",
        "labels": {"kubernetes.io/service-name": "web"},
        "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-31T12:00:00.25Z"},
    },
    "addressType": "IPv4",
    "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
    "endpoints": [
        {
            "addresses": ["10.244.1.5"],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "nodeName": "worker-1",
            "zone": "a",
            "hints": {"forZones": [{"name": "a"}], "forNodes": [{"name": "worker-1"}]},
        }
    ],
}
ENDPOINTS: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Endpoints",
    "metadata": {"name": "web", "namespace": "shop"},
    "subsets": [
        {
            "addresses": [{"ip": "10.244.1.5", "nodeName": "worker-1"}],
            "notReadyAddresses": [{"ip": "10.244.1.6"}],
            "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        }
    ],
}
NODE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "worker-1", "labels": {"topology.kubernetes.io/zone": "a"}},
    "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]},
    "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]},
}
OBJECTS = (SERVICE, SLICE, ENDPOINTS, NODE)


def put(value: Any, path: Path, new: object) -> Any:
    """A copy of `value` with `new` at `path`, which need not be there yet."""
    if not path:
        return new
    step, *rest = path
    if isinstance(value, list):
        return [put(item, tuple(rest), new) if index == step else item for index, item in enumerate(value)]
    return {**value, step: put(value.get(step, {}), tuple(rest), new)}


def without(value: Any, path: Path) -> Any:
    """A copy of `value` without the key at the end of `path`."""
    *way, last = path
    if way:
        return put(value, (way[0],), without(value[way[0]], path[1:]))
    return {key: item for key, item in value.items() if key != last}


def places(value: object, here: Path = ()) -> Iterator[Path]:
    """The path of every value inside `value`, itself first."""
    yield here
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*here, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from places(item, (*here, index))


def a_service(name: str, cluster_ip: str = "10.96.0.1", port: int = 80) -> dict[str, Any]:
    """The least that a person writes by hand."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"clusterIP": cluster_ip, "ports": [{"port": port}]},
    }


def service(name: str, port: int = 80) -> dict[str, Any]:
    document: dict[str, Any] = put(a_service(name, port=port), ("metadata", "namespace"), "shop")
    return document


def endpoint_slice(name: str, of: str, *addresses: str) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": of}},
        "addressType": "IPv4",
        "ports": [{"name": "", "protocol": "TCP", "port": 8080}],
        "endpoints": [{"addresses": [address]} for address in addresses],
    }


def event_line(change: str, document: dict[str, Any], version: int | None) -> bytes:
    metadata = {**document.get("metadata", {}), **({"resourceVersion": str(version)} if version else {})}
    return json.dumps({"type": change, "object": {**document, "metadata": metadata}}).encode() + b"\n"


def as_text(*documents: object) -> str:
    return yaml.safe_dump_all(documents, sort_keys=False)


def replace(store: Store, kind: type[ClusterObject], items: Iterable[ClusterObject]) -> None:
    """Make `items` all objects of their kind."""
    wanted = {object_key(item): item for item in items}
    for key in list(store.keys(kind)):
        if key not in wanted:
            store.delete(key)
    for item in wanted.values():
        store.upsert(item)
