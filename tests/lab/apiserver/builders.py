"""Objects as a real API server prints them, with every default and the noise that clients have to skip."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.lab.manifests import Backend, Port

Object = dict[str, Any]


def service(
    name: str,
    *,
    cluster_ip: str = "10.96.0.10",
    ports: int | Sequence[Port] = 80,
    namespace: str = "default",
    labels: Mapping[str, str] | None = None,
    **spec: Any,
) -> Object:
    """A ClusterIP Service; an empty `cluster_ip` makes it headless. `spec` replaces fields of the spec."""
    entries = [Port(ports)] if isinstance(ports, int) else list(ports)
    address = cluster_ip or "None"
    defaults: Object = {
        "clusterIP": address,
        "clusterIPs": [address],
        "internalTrafficPolicy": "Cluster",
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "ports": [_service_port(port) for port in entries],
        "selector": {"app": name},
        "sessionAffinity": "None",
        "type": "NodePort" if any(port.node_port for port in entries) else "ClusterIP",
    }
    metadata = _metadata(name, namespace, labels)
    return {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": metadata,
        "spec": defaults | spec,
        "status": {"loadBalancer": {}},
    }


def endpointslice(
    service_name: str,
    endpoints: Iterable[str | Backend],
    *,
    ports: int | Sequence[Port] = 8080,
    namespace: str = "default",
    suffix: str = "abc12",
    node_name: str = "node-1",
    labels: Mapping[str, str] | None = None,
) -> Object:
    """A slice of a Service as the controller writes it; the ports' ``target`` is what counts."""
    entries = [Port(ports, target=ports)] if isinstance(ports, int) else list(ports)
    owned = {
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        "kubernetes.io/service-name": service_name,
    }
    metadata = _metadata(f"{service_name}-{suffix}", namespace, owned | dict(labels or {}))
    metadata["generateName"] = f"{service_name}-"
    metadata["generation"] = 1
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": metadata,
        "addressType": "IPv4",
        "endpoints": [_endpoint(endpoint, node_name) for endpoint in endpoints],
        "ports": [{"name": port.name, "protocol": port.protocol, "port": port.target} for port in entries],
    }


def node(name: str, *, address: str = "192.168.1.10", pod_cidr: str = "10.244.1.0/24", zone: str = "zone-a") -> Object:
    """A ready Node with one internal address."""
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": zone}
    metadata = _metadata(name, "", labels)
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status"}
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": metadata,
        "spec": {"podCIDR": pod_cidr, "podCIDRs": [pod_cidr]},
        "status": {
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
            "allocatable": {"cpu": "2", "memory": "4030456Ki", "pods": "110"},
            "conditions": [ready],
            "nodeInfo": {"kubeletVersion": "v1.36.2", "operatingSystem": "linux"},
        },
    }


def _metadata(name: str, namespace: str, labels: Mapping[str, str] | None) -> Object:
    metadata: Object = {
        "name": name,
        "annotations": {"example.com/description": "für alle – 網路"},
        "managedFields": [
            {
                "manager": "kube-controller-manager",
                "operation": "Update",
                "apiVersion": "v1",
                "time": "2026-01-01T00:00:00Z",
                "fieldsType": "FieldsV1",
                "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:ports": {}}},
            }
        ],
    }
    if namespace:
        metadata["namespace"] = namespace
    if labels:
        metadata["labels"] = dict(labels)
    return metadata


def _service_port(port: Port) -> Object:
    entry: Object = {"protocol": port.protocol, "port": port.port, "targetPort": port.target}
    if port.name:
        entry["name"] = port.name
    if port.node_port:
        entry["nodePort"] = port.node_port
    return entry


def _endpoint(endpoint: str | Backend, node_name: str) -> Object:
    backend = Backend(endpoint) if isinstance(endpoint, str) else endpoint
    conditions = {"ready": backend.ready, "serving": backend.serving, "terminating": backend.terminating}
    return {"addresses": [backend.address], "conditions": conditions, "nodeName": node_name}
