"""A core/v1 Service, from the API's shape to the model's."""

from collections.abc import Iterator, Sequence

from userproxy.addresses import family_of
from userproxy.cluster.objects import schema
from userproxy.cluster.objects.annotations import CONNECTION_RATE, IDLE_TIMEOUT, ServiceOptions, read_annotations
from userproxy.cluster.objects.validation import Checker, interned, show
from userproxy.model import IPFamily, PortSpec, Protocol, Service

_TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
_DEFAULT_AFFINITY_TIMEOUT = 10800
_LONGEST_AFFINITY_TIMEOUT = 86400
_NO_CLIENT = {IPFamily.IPV4: "0.0.0.0/32", IPFamily.IPV6: "::/128"}
"""Networks from which no connection can come: no host has the unspecified address (RFC 1122, RFC 4291)."""


def decode_service(service: schema.RawService, checker: Checker) -> Service:
    """A core/v1 Service, also a headless or ExternalName one, which routing skips. Raises ObjectError."""
    metadata = service.metadata or schema.RawServiceMetadata()
    spec = service.spec or schema.RawServiceSpec()
    labels = metadata.labels or schema.RawLabels()
    namespace = checker.namespace(metadata.namespace)
    name = interned(checker.label("metadata.name", checker.present("metadata.name", metadata.name)))
    kind = checker.choice("spec.type", spec.type or "ClusterIP", _TYPES)
    cluster_ips = _cluster_ips(spec, checker)
    headless = "None" in (spec.cluster_ip, *(spec.cluster_ips or ()))
    if not spec.ports and not headless and kind != "ExternalName":
        raise checker.error("spec.ports", "missing; a Service needs at least one port")
    if not cluster_ips and not headless and kind != "ExternalName":
        checker.note("spec.clusterIP", "missing; only an API server allots one, so nothing is served")
    load_balancer_ips, balancer_ips = _ingress_ips(service.status, checker)
    settings = read_annotations(f"{namespace}/{name}", metadata.annotations or {})
    ports = _service_ports(spec.ports or [], checker)
    return Service(
        namespace=namespace,
        name=name,
        type=interned(kind),
        cluster_ips=cluster_ips,
        external_ips=_external_ips(spec, checker),
        load_balancer_ips=load_balancer_ips,
        ports=ports,
        affinity_timeout=_affinity_timeout(spec, checker),
        created=checker.timestamp("metadata.creationTimestamp", metadata.creation_timestamp),
        proxy_name=labels.service_proxy_name,
        internal_local=_is_local("spec.internalTrafficPolicy", spec.internal_traffic_policy, checker),
        external_local=_is_local("spec.externalTrafficPolicy", spec.external_traffic_policy, checker),
        source_ranges=_source_ranges(spec.load_balancer_source_ranges or (), checker),
        health_check_node_port=_health_check_node_port(spec, checker),
        close_removed_after=settings.close_removed_after,
        udp_timeout=settings.udp_timeout,
        client_address=settings.client_address,
        sends_proxy=settings.sends_proxy,
        accepts_proxy=settings.accepts_proxy,
        balancer=settings.balancer,
        hint_weight=settings.hint_weight,
        ejection=settings.ejection,
        limits=settings.limits,
        hold=settings.hold,
        bad_annotations=(*settings.complaints, *_for_tcp_alone(f"{namespace}/{name}", settings, ports)),
        balancer_ips=balancer_ips,
        uid=metadata.uid or "",
    )


def _for_tcp_alone(name: str, settings: ServiceOptions, ports: Sequence[PortSpec]) -> Iterator[str]:
    """Complaints of limits that only ports of TCP can have, where there is none."""
    if ports and all(port.protocol is not Protocol.TCP for port in ports):
        given = ((CONNECTION_RATE, settings.connection_rate), (IDLE_TIMEOUT, settings.idle_timeout))
        for annotation, value in given:
            if value is not None:
                yield f"{name}: annotation {annotation}: it is for ports of TCP, and the Service has none"


def _cluster_ips(spec: schema.RawServiceSpec, checker: Checker) -> tuple[str, ...]:
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
    for index, (name, address) in enumerate(zip(families, many, strict=False)):
        wanted = None if name is None else checker.family(f"spec.ipFamilies[{index}]", name)
        path = f"spec.clusterIPs[{index}]" if spec.cluster_ips else "spec.clusterIP"
        addresses.append(checker.host(path, address, wanted))
    if len(addresses) > 1:
        checker.unique("spec.clusterIPs", map(family_of, addresses), "family", "family")
    return tuple(addresses)


def _external_ips(spec: schema.RawServiceSpec, checker: Checker) -> tuple[str, ...]:
    """The external IPs without malformed ones, which are reported unless they are blank, as kube-proxy does it."""
    addresses = []
    for index, text in enumerate(spec.external_ips or ()):
        if not text or not text.strip():
            continue
        address = checker.attempt(checker.destination, f"spec.externalIPs[{index}]", text)
        if address:
            addresses.append(address)
    return tuple(dict.fromkeys(addresses))


def _ingress_ips(status: schema.RawServiceStatus | None, checker: Checker) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ingress addresses that are virtual IPs here (mode VIP or none, KEP-1860), and those of mode Proxy.

    A malformed one is left out.
    """
    balancer = status.load_balancer if status else None
    found: dict[str, dict[str, None]] = {"VIP": {}, "Proxy": {}}
    for index, ingress in enumerate(balancer.ingress or () if balancer else ()):
        path = f"status.loadBalancer.ingress[{index}]"
        mode = checker.attempt(checker.choice, f"{path}.ipMode", ingress.ip_mode or "VIP", tuple(found))
        if ingress.ip and mode:
            address = checker.attempt(checker.destination, f"{path}.ip", ingress.ip)
            if address:
                found[mode][address] = None
    return tuple(found["VIP"]), tuple(found["Proxy"])


def _is_local(path: str, policy: str | None, checker: Checker) -> bool:
    """Whether a traffic policy is Local. An unknown one counts as Cluster, as for kube-proxy."""
    if policy and policy not in ("Cluster", "Local"):
        checker.note(path, f"{show(policy)} is not one of Cluster, Local; it is taken for Cluster")
    return policy == "Local"


def _source_ranges(ranges: Sequence[str | None], checker: Checker) -> tuple[str, ...]:
    """Networks that may use the load-balancer IPs; a malformed one is left out, as kube-proxy does it.

    No range at all would mean that everybody may. So where all ranges of a family are malformed, or all ranges there
    are, a network that no client can be in is put in their place: a typing error must not admit everybody.
    """
    if not ranges:
        return ()
    path = "spec.loadBalancerSourceRanges"
    networks: list[str] = []
    malformed: set[IPFamily] = set()
    for index, text in enumerate(ranges):
        network = checker.attempt(checker.network, f"{path}[{index}]", (text or "").strip())
        if network:
            networks.append(network)
        else:
            malformed.add(family_of(text or ""))
    closed = malformed - set(map(family_of, networks)) if networks else IPFamily
    for each in sorted(closed):
        checker.note(path, f"no {each} network is left, so no {each} client may use the load-balancer IPs")
        networks.append(_NO_CLIENT[each])
    return tuple(dict.fromkeys(networks))


def _health_check_node_port(spec: schema.RawServiceSpec, checker: Checker) -> int:
    """The port, or 0 for none; also for a bad one, which must cost the health check only and not the Service."""
    path, port = "spec.healthCheckNodePort", spec.health_check_node_port
    return checker.attempt(checker.within, path, port, 0, 65535, "a port number") or 0 if port else 0


def _service_ports(ports: Sequence[schema.RawServicePort], checker: Checker) -> tuple[PortSpec, ...]:
    specs = []
    for index, port in enumerate(ports):
        path = f"spec.ports[{index}]"
        if not port.name and len(ports) > 1:
            raise checker.error(f"{path}.name", f"missing, and needed because there are {len(ports)} ports")
        specs.append(
            PortSpec(
                name=interned(checker.label(f"{path}.name", port.name)) if port.name else "",
                protocol=checker.protocol(f"{path}.protocol", port.protocol),
                port=checker.port(f"{path}.port", port.port),
                node_port=checker.within(f"{path}.nodePort", port.node_port or 0, 0, 65535, "a port number"),
            )
        )
    if len(specs) > 1:  # few Services have several
        _refuse_repeated(specs, checker)
    return tuple(specs)


def _refuse_repeated(specs: Sequence[PortSpec], checker: Checker) -> None:
    checker.unique("spec.ports", (spec.name for spec in specs), "name", "name")
    checker.unique("spec.ports", (f"{spec.port}/{spec.protocol}" for spec in specs), "port", "port")
    node_ports = (f"{spec.node_port or f'none of {index}'}/{spec.protocol}" for index, spec in enumerate(specs))
    checker.unique("spec.ports", node_ports, "nodePort", "node port")


def _affinity_timeout(spec: schema.RawServiceSpec, checker: Checker) -> int | None:
    if checker.choice("spec.sessionAffinity", spec.session_affinity or "None", ("None", "ClientIP")) == "None":
        return None
    config = spec.session_affinity_config or schema.RawAffinityConfig()
    seconds = (config.client_ip or schema.RawClientIP()).timeout_seconds
    if seconds is None:
        return _DEFAULT_AFFINITY_TIMEOUT
    path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
    return checker.within(path, seconds, 1, _LONGEST_AFFINITY_TIMEOUT, "a number of seconds")
