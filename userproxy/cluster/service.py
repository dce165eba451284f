"""A core/v1 Service from its raw shape."""

from collections.abc import Sequence

from userproxy.cluster import raw
from userproxy.cluster.checks import FAMILIES, Checker, family, show
from userproxy.errors import ObjectError
from userproxy.model import PortSpec, Service

_TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
_DEFAULT_AFFINITY_TIMEOUT = 10800
_LONGEST_AFFINITY_TIMEOUT = 86400


def decode_service(service: raw.RawService, checker: Checker) -> Service:
    """A core/v1 Service. Headless and ExternalName ones decode, too: routing skips them."""
    metadata = service.metadata or raw.RawMetadata()
    spec = service.spec or raw.RawServiceSpec()
    labels = metadata.labels or raw.RawLabels()
    namespace = checker.namespace(metadata.namespace)
    name = checker.label("metadata.name", checker.present("metadata.name", metadata.name))
    kind = checker.choice("spec.type", spec.type or "ClusterIP", _TYPES)
    cluster_ips = _cluster_ips(spec, checker)
    headless = "None" in (spec.cluster_ip, *(spec.cluster_ips or ()))
    if not spec.ports and not headless and kind != "ExternalName":
        raise checker.error("spec.ports", "missing; a Service needs at least one port")
    if not cluster_ips and not headless and kind != "ExternalName":
        checker.note("spec.clusterIP", "missing; only an API server allots one, so nothing is served")
    return Service(
        namespace=namespace,
        name=name,
        type=kind,
        cluster_ips=cluster_ips,
        external_ips=_external_ips(spec, checker),
        load_balancer_ips=_load_balancer_ips(service.status, checker),
        ports=_service_ports(spec.ports or [], checker),
        affinity_timeout=_affinity_timeout(spec, checker),
        created=checker.timestamp("metadata.creationTimestamp", metadata.creation_timestamp),
        proxy_name=labels.service_proxy_name,
    )


def _cluster_ips(spec: raw.RawServiceSpec, checker: Checker) -> tuple[str, ...]:
    """At most one address a family, chosen as kube-proxy chooses.

    Without ``ipFamilies`` only ``clusterIP`` counts; with it, the n-th family is that of the n-th of ``clusterIPs``.
    """
    first = spec.cluster_ip or ""
    many = spec.cluster_ips or [first]
    if first and many[0] != first:
        raise checker.error("spec.clusterIPs[0]", f"{show(many[0])} differs from spec.clusterIP {show(first)}")
    if many[0] in ("", "None"):
        return ()
    families: Sequence[str | None] = spec.ip_families or (None,)
    addresses = []
    for index, (wanted, address) in enumerate(zip(families, many, strict=False)):
        if wanted is not None:
            checker.choice(f"spec.ipFamilies[{index}]", wanted, FAMILIES)
        path = f"spec.clusterIPs[{index}]" if spec.cluster_ips else "spec.clusterIP"
        addresses.append(checker.host(path, address, wanted))
    checker.unique("spec.clusterIPs", map(family, addresses), "family", "family")
    return tuple(addresses)


def _external_ips(spec: raw.RawServiceSpec, checker: Checker) -> tuple[str, ...]:
    """kube-proxy drops what is no address and keeps the Service; blank ones it does not even mention."""
    addresses = []
    for index, text in enumerate(spec.external_ips or ()):
        if not text or not text.strip():
            continue
        try:
            addresses.append(checker.host(f"spec.externalIPs[{index}]", text))
        except ObjectError as error:
            checker.problems.append(str(error))
    return tuple(dict.fromkeys(addresses))


def _load_balancer_ips(status: raw.RawServiceStatus | None, checker: Checker) -> tuple[str, ...]:
    """Ingress addresses to be treated as virtual IPs: mode VIP or none at all (KEP-1860)."""
    balancer = status.load_balancer if status else None
    addresses = []
    for index, ingress in enumerate(balancer.ingress or () if balancer else ()):
        path = f"status.loadBalancer.ingress[{index}]"
        mode = checker.choice(f"{path}.ipMode", ingress.ip_mode or "VIP", ("VIP", "Proxy"))
        if ingress.ip and mode == "VIP":
            addresses.append(checker.host(f"{path}.ip", ingress.ip))
    return tuple(dict.fromkeys(addresses))


def _service_ports(ports: Sequence[raw.RawServicePort], checker: Checker) -> tuple[PortSpec, ...]:
    specs = []
    for index, port in enumerate(ports):
        path = f"spec.ports[{index}]"
        if not port.name and len(ports) > 1:
            raise checker.error(f"{path}.name", f"missing, and needed because there are {len(ports)} ports")
        specs.append(
            PortSpec(
                name=checker.label(f"{path}.name", port.name) if port.name else "",
                protocol=checker.protocol(f"{path}.protocol", port.protocol),
                port=checker.port(f"{path}.port", port.port),
                node_port=checker.within(f"{path}.nodePort", port.node_port or 0, 0, 65535, "a port number"),
            )
        )
    checker.unique("spec.ports", (spec.name for spec in specs), "name", "name")
    checker.unique("spec.ports", (f"{spec.port}/{spec.protocol}" for spec in specs), "port", "port")
    node_ports = (f"{spec.node_port or f'none of {index}'}/{spec.protocol}" for index, spec in enumerate(specs))
    checker.unique("spec.ports", node_ports, "nodePort", "node port")
    return tuple(specs)


def _affinity_timeout(spec: raw.RawServiceSpec, checker: Checker) -> int | None:
    if checker.choice("spec.sessionAffinity", spec.session_affinity or "None", ("None", "ClientIP")) == "None":
        return None
    config = spec.session_affinity_config or raw.RawAffinityConfig()
    seconds = (config.client_ip or raw.RawClientIP()).timeout_seconds
    if seconds is None:
        return _DEFAULT_AFFINITY_TIMEOUT
    path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
    return checker.within(path, seconds, 1, _LONGEST_AFFINITY_TIMEOUT, "a number of seconds")
