"""Kubernetes objects as files, written the way a careful tool writes them: in one step."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from msgspec import Struct

from userproxy.demo.hosts import Host
from userproxy.demo.network import Node, Pod
from userproxy.model import IPFamily


class Port(Struct, frozen=True):
    """One port of a Service and the port its Pods listen on. ``node_port`` 0 means none."""

    port: int
    name: str = ""
    protocol: str = "TCP"
    target: int = 8080
    node_port: int = 0


class Backend(Struct, frozen=True):
    """One endpoint of a slice. A host as the address stands for its address and its node.

    ``for_zones`` and ``for_nodes`` are its hints.
    """

    address: Host | str
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    zone: str = ""
    for_zones: tuple[str, ...] = ()
    for_nodes: tuple[str, ...] = ()


class Ingress(Struct, frozen=True):
    """One entry of a Service's ``status.loadBalancer.ingress``; an empty `mode` leaves ``ipMode`` out."""

    ip: str
    mode: str = ""


Policy = Literal["Cluster", "Local"]


class Manifests:
    """A directory for ``--manifests``. Each builder writes one file, named after kind, namespace and name.

    Calling a builder again for the same object replaces it. Every builder returns the file's path.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory

    @property
    def flags(self) -> tuple[str, ...]:
        """What makes ``userproxy run`` read them."""
        return ("--manifests", str(self.directory))

    def service(
        self,
        name: str,
        *,
        ports: int | Sequence[Port] = 80,
        cluster_ip: str | Sequence[str] = "",
        node_port: int = 0,
        external_ips: Sequence[str] = (),
        load_balancer_ips: Sequence[str | Ingress] = (),
        affinity: int | None = None,
        internal_policy: Policy = "Cluster",
        external_policy: Policy = "Cluster",
        source_ranges: Sequence[str] = (),
        health_check_node_port: int = 0,
        allocate_node_ports: bool = True,
        publish_not_ready: bool = False,
        namespace: str = "default",
        annotations: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        created: str = "2026-01-01T00:00:00Z",
    ) -> Path:
        """A Service. `ports` as a number is one TCP port without a name; `affinity` is ClientIP's seconds.

        Two cluster IPs make it a dual-stack Service, without any it is headless. `node_port` goes to the first port.
        The type follows from what is asked for.
        """
        entries = [Port(ports)] if isinstance(ports, int) else list(ports)
        addresses = ([cluster_ip] if isinstance(cluster_ip, str) else [*cluster_ip]) or [""]
        kind = _service_type(load_balancer_ips, [node_port, *(port.node_port for port in entries)])
        spec: dict[str, Any] = {
            "type": kind,
            "clusterIP": addresses[0] or "None",
            "clusterIPs": [address or "None" for address in addresses],
            "ipFamilies": ["IPv6" if ":" in address else "IPv4" for address in addresses],
            "ipFamilyPolicy": "SingleStack" if len(addresses) == 1 else "RequireDualStack",
            "ports": [_service_port(port, node_port if not index else 0) for index, port in enumerate(entries)],
            "sessionAffinity": "None",
            "internalTrafficPolicy": internal_policy,
        }
        if kind != "ClusterIP" or external_ips:
            spec["externalTrafficPolicy"] = external_policy
        if external_ips:
            spec["externalIPs"] = list(external_ips)
        if source_ranges:
            spec["loadBalancerSourceRanges"] = list(source_ranges)
        if health_check_node_port:
            spec["healthCheckNodePort"] = health_check_node_port
        if kind == "LoadBalancer":
            spec["allocateLoadBalancerNodePorts"] = allocate_node_ports
        if publish_not_ready:
            spec["publishNotReadyAddresses"] = True
        if affinity is not None:
            spec["sessionAffinity"] = "ClientIP"
            spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": affinity}}
        document = _object("v1", "Service", namespace, name, labels, annotations) | {"spec": spec}
        document["metadata"]["creationTimestamp"] = created
        if load_balancer_ips:
            document["status"] = {"loadBalancer": {"ingress": [_ingress(each) for each in load_balancer_ips]}}
        return self.write(f"service-{namespace}-{name}.yaml", document)

    def slice(
        self,
        service: str,
        endpoints: Iterable[Host | str | Backend],
        *,
        ports: int | Sequence[Port] = 8080,
        family: IPFamily = IPFamily.IPV4,
        namespace: str = "default",
        suffix: str = "",
        annotations: Mapping[str, str] | None = None,
    ) -> Path:
        """An EndpointSlice of `service`; the ports' ``target`` is what counts.

        Hosts stand for their address of that family and, where they are Pods, for their node; a node stands for a Pod
        of its with hostNetwork. Several slices of a Service differ by `suffix`, which is the family's name by default.
        """
        entries = [Port(ports, target=ports)] if isinstance(ports, int) else list(ports)
        labels = {"kubernetes.io/service-name": service}
        name = f"{service}-{suffix or family.lower()}"
        document = _object("discovery.k8s.io/v1", "EndpointSlice", namespace, name, labels, annotations)
        document["addressType"] = str(family)
        document["ports"] = [{"name": port.name, "protocol": port.protocol, "port": port.target} for port in entries]
        document["endpoints"] = [_endpoint(endpoint, family) for endpoint in endpoints]
        return self.write(f"slice-{namespace}-{name}.yaml", document)

    def slices(
        self, service: str, endpoints: Iterable[Host | Backend], *, ports: int | Sequence[Port] = 8080
    ) -> dict[IPFamily, Path]:
        """A slice of each family with the same hosts."""
        hosts = list(endpoints)
        return {family: self.slice(service, hosts, ports=ports, family=family) for family in IPFamily}

    def node(self, node: Node, *, zone: str = "") -> Path:
        """The Node object of a lab's node: its addresses, its Pods' networks, and its zone."""
        own = [address for address in (node.address, node.address6) if address]
        networks = [f"10.244.{node.number}.0/24", *([f"fd00:10:244:{node.number}::/64"] if node.address6 else [])]
        document = _object("v1", "Node", "", node.name, {"kubernetes.io/hostname": node.name}, None)
        if zone:
            document["metadata"]["labels"]["topology.kubernetes.io/zone"] = zone
        document["spec"] = {"podCIDR": networks[0], "podCIDRs": networks}
        listed = [{"type": "InternalIP", "address": address} for address in own]
        document["status"] = {"addresses": [*listed, {"type": "Hostname", "address": node.name}]}
        return self.write(f"node-{node.name}.yaml", document)

    def write(self, name: str, *documents: Mapping[str, Any]) -> Path:
        """Any objects, as the documents of one file."""
        return self.write_text(name, yaml.safe_dump_all([dict(each) for each in documents], sort_keys=False))

    def write_text(self, name: str, text: str) -> Path:
        """Any text, for manifests that are wrong."""
        draft = self.directory / f".{name}.draft"
        draft.write_text(text)
        return draft.rename(self.directory / name)

    def remove(self, path: Path) -> None:
        """Delete what a builder has written."""
        path.unlink()


def _service_type(load_balancer_ips: Sequence[str | Ingress], node_ports: Iterable[int]) -> str:
    if load_balancer_ips:
        return "LoadBalancer"
    return "NodePort" if any(node_ports) else "ClusterIP"


def _service_port(port: Port, node_port: int) -> dict[str, Any]:
    entry: dict[str, Any] = {"protocol": port.protocol, "port": port.port, "targetPort": port.target}
    if port.name:
        entry["name"] = port.name
    if number := port.node_port or node_port:
        entry["nodePort"] = number
    return entry


def _ingress(ingress: str | Ingress) -> dict[str, Any]:
    if isinstance(ingress, str):
        return {"ip": ingress}
    return {"ip": ingress.ip, "ipMode": ingress.mode} if ingress.mode else {"ip": ingress.ip}


def _endpoint(endpoint: Host | str | Backend, family: IPFamily) -> dict[str, Any]:
    backend = endpoint if isinstance(endpoint, Backend) else Backend(endpoint)
    conditions = {"ready": backend.ready, "serving": backend.serving, "terminating": backend.terminating}
    entry: dict[str, Any] = {"addresses": [_address(backend.address, family)], "conditions": conditions}
    node = backend.address.node if isinstance(backend.address, Pod) else backend.address
    if isinstance(backend.address, Pod):
        entry["targetRef"] = {"kind": "Pod", "namespace": "default", "name": backend.address.name}
    if isinstance(node, Node):  # itself, where the Pod has hostNetwork
        entry["nodeName"] = node.name
    if backend.zone:
        entry["zone"] = backend.zone
    hints = {
        "forZones": [{"name": zone} for zone in backend.for_zones],
        "forNodes": [{"name": node} for node in backend.for_nodes],
    }
    if any(hints.values()):
        entry["hints"] = {kind: names for kind, names in hints.items() if names}
    return entry


def _address(host: Host | str, family: IPFamily) -> str:
    if isinstance(host, str):
        return host
    return host.address6 if family is IPFamily.IPV6 else host.address


def _object(
    version: str,
    kind: str,
    namespace: str,
    name: str,
    labels: Mapping[str, str] | None,
    annotations: Mapping[str, str] | None,
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "namespace": namespace} if namespace else {"name": name}
    if labels:
        metadata["labels"] = dict(labels)
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": version, "kind": kind, "metadata": metadata}
