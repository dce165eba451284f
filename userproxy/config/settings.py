"""Settings: the one validated value that says how `userproxy run` behaves."""

import ipaddress
from enum import StrEnum
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from userproxy.addresses import SocketAddress, parse_network, parse_socket_address
from userproxy.config.kubeproxy import (
    HEALTHZ_PORT,
    METRICS_PORT,
    Conntrack,
    KubeProxyConfiguration,
    LocalMode,
    plain,
)
from userproxy.durations import parse_duration
from userproxy.forwarding.ports.ranges import PortRange, parse_port_range
from userproxy.model import ClientAddress, ConntrackSettings
from userproxy.portals.return_path.marks import DEFAULT as DEFAULT_MARK
from userproxy.portals.return_path.marks import Mark
from userproxy.routing.reserved_ports import NODE_SERVICES, ReservedPorts


class PortalMode(StrEnum):
    """Values of ``--portals``."""

    AUTO = "auto"
    IPTABLES = "iptables"
    NFTABLES = "nftables"
    LOCAL = "local"
    NONE = "none"


class AtStop(StrEnum):
    """Values of ``--at-stop``."""

    REMOVE = "remove"
    LEAVE = "leave"


class AfterTakeover(StrEnum):
    """Values of ``--after-takeover``."""

    EXIT = "exit"
    WAIT = "wait"


class EventLoop(StrEnum):
    """Values of ``--event-loop``."""

    AUTO = "auto"
    UVLOOP = "uvloop"
    ASYNCIO = "asyncio"


class OwnSettings(Struct, frozen=True, kw_only=True):
    """What only flags set. Time limits are seconds.

    Without `manifests` the API server is the source: `master` is its address and `context` the kubeconfig's
    context, None for the current one. `config_file` is where the rest was read from. `reserved_node_ports` are kept for
    the node's own services. `local_ports_file` remembers local ports; None is the usual place, as for `admin_socket`,
    which is empty where there is to be none; with `allow_capture` it also shows the bytes of connections, and with
    `allow_faults` connections can be made to suffer faults.
    With `takeover` a running userproxy is asked for all that it has, and `after_takeover` is what one does then.
    `metrics_services` is how many service ports have metrics of their own. `workers` is how many processes carry the
    traffic, 0 for this one alone, None for as many as suit the machine.
    `conntrack_guard` is whether a table that outlives a flush keeps connections translated. `client_address` is whose
    address backends see, and `transparent_mark` marks answers to it; `trusted_proxies` are the canonical networks whose
    PROXY headers are believed.
    """

    manifests: tuple[Path, ...] = ()
    config_file: Path | None = None
    master: str | None = None
    context: str | None = None
    portals: PortalMode = PortalMode.AUTO
    local_ports_file: Path | None = None
    admin_socket: str | None = None
    allow_capture: bool = False
    allow_faults: bool = False
    takeover: bool = False
    after_takeover: AfterTakeover = AfterTakeover.EXIT
    conntrack_guard: bool = True
    at_stop: AtStop = AtStop.REMOVE
    drain_delay: float = 0.0
    drain_timeout: float = 30.0
    linger: float = 20.0
    half_open_timeout: float = 600.0
    queue_timeout: float = 30.0
    proxy_name: str | None = None
    workers: int | None = 0
    event_loop: EventLoop = EventLoop.AUTO
    reserved_node_ports: ReservedPorts = NODE_SERVICES
    metrics_services: int = 100
    client_address: ClientAddress = ClientAddress.AUTO
    transparent_mark: Mark = DEFAULT_MARK
    trusted_proxies: tuple[str, ...] = ()


class Settings(OwnSettings, frozen=True, kw_only=True):
    """How one `userproxy run` behaves.

    Periods and time limits are seconds. None means: no such server (`healthz_bind_address`), the format that suits the
    output (`log_format`), the Pod's credentials (`kubeconfig`), the host's name (`hostname_override`, which is lower
    case), userproxy's default (`udp_timeout`). `cluster_cidr` has at most one network of each family.

    `node_port_addresses` are the networks on whose addresses node ports are served, or just the word ``primary``; a
    family without any network has its node ports on all addresses. Networks are canonical. `configuration` is what the
    other fields were made from.
    """

    bind_address: str = "0.0.0.0"
    port_range: PortRange = PortRange()
    min_sync_period: float = 1.0
    sync_period: float = 30.0
    udp_timeout: float | None = None
    kubeconfig: Path | None = None
    config_sync_period: float = 900.0
    hostname_override: str | None = None
    healthz_bind_address: SocketAddress | None = SocketAddress("0.0.0.0", HEALTHZ_PORT)
    metrics_bind_address: SocketAddress = SocketAddress("127.0.0.1", METRICS_PORT)
    bind_address_hard_fail: bool = False
    node_port_addresses: tuple[str, ...] = ()
    localhost_node_ports: bool = True
    cluster_cidr: tuple[str, ...] = ()
    detect_local_mode: LocalMode = LocalMode.CLUSTER_CIDR
    bridge_interface: str = ""
    interface_name_prefix: str = ""
    oom_score_adj: int = -999
    conntrack: ConntrackSettings = ConntrackSettings()
    external_ips_allowed: bool = True
    verbosity: int = 0
    log_format: str | None = None
    configuration: KubeProxyConfiguration = KubeProxyConfiguration()


def settings_from(configuration: KubeProxyConfiguration, own: OwnSettings) -> Settings:
    """Settings from a configuration that :func:`userproxy.config.validate.check` has nothing against."""
    healthz = configuration.healthz_bind_address
    cidrs = configuration.cluster_cidr
    node_ports = configuration.node_port_addresses
    return Settings(
        **structs.asdict(own),
        bind_address=str(ipaddress.ip_address(configuration.bind_address)),
        port_range=parse_port_range(configuration.port_range),
        min_sync_period=parse_duration(configuration.periods.min_sync_period),
        sync_period=parse_duration(configuration.periods.sync_period),
        udp_timeout=parse_duration(configuration.udp_idle_timeout) or None,
        kubeconfig=_path(configuration.client_connection.kubeconfig),
        config_sync_period=parse_duration(configuration.config_sync_period),
        hostname_override=configuration.hostname_override.strip().lower() or None,
        healthz_bind_address=parse_socket_address(healthz, HEALTHZ_PORT) if healthz else None,
        metrics_bind_address=parse_socket_address(configuration.metrics_bind_address, METRICS_PORT),
        bind_address_hard_fail=configuration.bind_address_hard_fail,
        node_port_addresses=node_ports if node_ports == ("primary",) else tuple(map(parse_network, node_ports)),
        localhost_node_ports=configuration.iptables.localhost_node_ports,
        cluster_cidr=tuple(map(parse_network, cidrs.split(","))) if cidrs else (),
        detect_local_mode=LocalMode(configuration.local_mode),
        bridge_interface=configuration.detect_local.bridge_interface,
        interface_name_prefix=configuration.detect_local.interface_name_prefix,
        oom_score_adj=configuration.oom_score_adj,
        conntrack=_conntrack(configuration.conntrack),
        external_ips_allowed=configuration.external_ips_allowed,
        verbosity=configuration.logging.verbosity,
        log_format=configuration.logging.format or None,
        configuration=configuration,
    )


def configz(settings: Settings) -> dict[str, Any]:
    """The effective configuration in the form of its file, for ``/configz``."""
    return plain(settings.configuration)


def _conntrack(configuration: Conntrack) -> ConntrackSettings:
    return ConntrackSettings(
        max_per_core=configuration.max_per_core,
        min=configuration.min,
        tcp_established_timeout=parse_duration(configuration.tcp_established_timeout),
        tcp_close_wait_timeout=parse_duration(configuration.tcp_close_wait_timeout),
        tcp_be_liberal=configuration.tcp_be_liberal,
        udp_timeout=parse_duration(configuration.udp_timeout),
        udp_stream_timeout=parse_duration(configuration.udp_stream_timeout),
    )


def _path(text: str) -> Path | None:
    return Path(text) if text else None
