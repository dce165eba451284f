"""Kubernetes objects as files, written the way a careful tool writes them: in one step."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from userproxy.demo.hosts import Host


class Port(Struct, frozen=True):
    """One port of a Service and the port its Pods listen on. ``node_port`` 0 means none."""

    port: int
    name: str = ""
    protocol: str = "TCP"
    target: int = 8080
    node_port: int = 0


class Backend(Struct, frozen=True):
    """One endpoint of a slice with its conditions."""

    address: str
    ready: bool = True
    serving: bool = True
    terminating: bool = False


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
        cluster_ip: str = "",
        node_port: int = 0,
        external_ips: Sequence[str] = (),
        load_balancer_ips: Sequence[str] = (),
        affinity: int | None = None,
        namespace: str = "default",
        annotations: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        created: str = "2026-01-01T00:00:00Z",
    ) -> Path:
        """A Service. `ports` as a number is one TCP port without a name; `affinity` is ClientIP's seconds.

        `node_port` goes to the first port. The type follows from what is asked for; without `cluster_ip` the
        Service is headless.
        """
        entries = [Port(ports)] if isinstance(ports, int) else list(ports)
        spec: dict[str, Any] = {
            "type": _service_type(load_balancer_ips, [node_port, *(port.node_port for port in entries)]),
            "clusterIP": cluster_ip or "None",
            "clusterIPs": [cluster_ip or "None"],
            "ports": [_service_port(port, node_port if not index else 0) for index, port in enumerate(entries)],
            "sessionAffinity": "None",
        }
        if external_ips:
            spec["externalIPs"] = list(external_ips)
        if affinity is not None:
            spec["sessionAffinity"] = "ClientIP"
            spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": affinity}}
        document = _object("v1", "Service", namespace, name, labels, annotations) | {"spec": spec}
        document["metadata"]["creationTimestamp"] = created
        if load_balancer_ips:
            document["status"] = {"loadBalancer": {"ingress": [{"ip": address} for address in load_balancer_ips]}}
        return self.write(f"service-{namespace}-{name}.yaml", document)

    def slice(
        self,
        service: str,
        endpoints: Iterable[Host | str | Backend],
        *,
        ports: int | Sequence[Port] = 8080,
        namespace: str = "default",
        suffix: str = "1",
    ) -> Path:
        """An EndpointSlice of `service`; the ports' ``target`` is what counts. Hosts stand for their address.

        Several slices of a Service differ by `suffix`.
        """
        entries = [Port(ports, target=ports)] if isinstance(ports, int) else list(ports)
        labels = {"kubernetes.io/service-name": service}
        document = _object("discovery.k8s.io/v1", "EndpointSlice", namespace, f"{service}-{suffix}", labels, None)
        document["addressType"] = "IPv4"
        document["ports"] = [{"name": port.name, "protocol": port.protocol, "port": port.target} for port in entries]
        document["endpoints"] = [_endpoint(endpoint) for endpoint in endpoints]
        return self.write(f"slice-{namespace}-{service}-{suffix}.yaml", document)

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


def _service_type(load_balancer_ips: Sequence[str], node_ports: Iterable[int]) -> str:
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


def _endpoint(endpoint: Host | str | Backend) -> dict[str, Any]:
    if isinstance(endpoint, Host):
        endpoint = endpoint.address
    backend = Backend(endpoint) if isinstance(endpoint, str) else endpoint
    conditions = {"ready": backend.ready, "serving": backend.serving, "terminating": backend.terminating}
    return {"addresses": [backend.address], "conditions": conditions}


def _object(
    version: str,
    kind: str,
    namespace: str,
    name: str,
    labels: Mapping[str, str] | None,
    annotations: Mapping[str, str] | None,
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "namespace": namespace}
    if labels:
        metadata["labels"] = dict(labels)
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": version, "kind": kind, "metadata": metadata}
