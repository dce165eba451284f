"""KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1): its fields and their defaults.

The fields are those of kube-proxy 1.36, and those that 1.25 had for its userspace mode. A *path* names a field as in
``iptables.syncPeriod``. Durations stay text, as in the file.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, NewType, TypeVar

from msgspec import Struct, field, json, structs

API_VERSION = "kubeproxy.config.k8s.io/v1alpha1"
KIND = "KubeProxyConfiguration"

HEALTHZ_PORT = 10256
METRICS_PORT = 10249

Duration = NewType("Duration", str)
"""A Go duration."""
Quantity = NewType("Quantity", str)
"""A Kubernetes quantity, such as ``64Ki``; the file may also write a number."""

EXTERNAL_IPS_GATE = "AllowServiceExternalIPs"
"""The one feature gate that userproxy knows: whether external IPs of Services are served."""


class LocalMode(StrEnum):
    """Values of ``detectLocalMode``: how traffic of this node's own Pods is recognised."""

    CLUSTER_CIDR = "ClusterCIDR"
    NODE_CIDR = "NodeCIDR"
    BRIDGE_INTERFACE = "BridgeInterface"
    INTERFACE_NAME_PREFIX = "InterfaceNamePrefix"


class ClientConnection(Struct, frozen=True, kw_only=True, rename="camel"):
    kubeconfig: str = ""
    accept_content_types: str = ""
    content_type: str = "application/vnd.kubernetes.protobuf"
    qps: float = 5.0
    burst: int = 10


class IPTables(Struct, frozen=True, kw_only=True, rename="camel"):
    masquerade_bit: int = 14
    masquerade_all: bool = False
    localhost_node_ports: bool = True
    sync_period: Duration = Duration("30s")
    min_sync_period: Duration = Duration("1s")


class NFTables(Struct, frozen=True, kw_only=True, rename="camel"):
    masquerade_bit: int = 14
    masquerade_all: bool = False
    sync_period: Duration = Duration("30s")
    min_sync_period: Duration = Duration("1s")


class IPVS(Struct, frozen=True, kw_only=True, rename="camel"):
    sync_period: Duration = Duration("30s")
    min_sync_period: Duration = Duration("1s")
    scheduler: str = ""
    exclude_cidrs: tuple[str, ...] = field(name="excludeCIDRs", default=())
    strict_arp: bool = field(name="strictARP", default=False)
    tcp_timeout: Duration = Duration("0s")
    tcp_fin_timeout: Duration = Duration("0s")
    udp_timeout: Duration = Duration("0s")


class Conntrack(Struct, frozen=True, kw_only=True, rename="camel"):
    max_per_core: int = 32768
    min: int = 131072
    tcp_established_timeout: Duration = Duration("24h")
    tcp_close_wait_timeout: Duration = Duration("1h")
    tcp_be_liberal: bool = False
    udp_timeout: Duration = Duration("0s")
    udp_stream_timeout: Duration = Duration("0s")


class DetectLocal(Struct, frozen=True, kw_only=True, rename="camel"):
    bridge_interface: str = ""
    interface_name_prefix: str = ""


class Winkernel(Struct, frozen=True, kw_only=True, rename="camel"):
    network_name: str = ""
    source_vip: str = ""
    enable_dsr: bool = field(name="enableDSR", default=False)
    root_hns_endpoint_name: str = ""
    forward_health_check_vip: bool = False


class VModule(Struct, frozen=True, kw_only=True, rename="camel"):
    """The verbosity of one source file of kube-proxy."""

    file_pattern: str
    verbosity: int


class LogOutput(Struct, frozen=True, kw_only=True, rename="camel"):
    split_stream: bool = False
    info_buffer_size: Quantity = Quantity("0")


class LogOptions(Struct, frozen=True, kw_only=True):
    text: LogOutput = LogOutput()
    json: LogOutput = LogOutput()


class Logging(Struct, frozen=True, kw_only=True, rename="camel"):
    """An empty `format` suits the output, where kube-proxy's would be text."""

    format: str = ""
    flush_frequency: Duration = Duration("5s")
    verbosity: int = 0
    vmodule: tuple[VModule, ...] = ()
    options: LogOptions = LogOptions()


class KubeProxyConfiguration(Struct, frozen=True, kw_only=True, rename="camel"):
    """The whole file. A value made without arguments is the default configuration.

    Zero for `udp_idle_timeout` leaves the choice to userproxy, where kube-proxy 1.25 had 250 ms: too short for many a
    reply, and a file that was written with all defaults must not ask for it.
    """

    api_version: str = API_VERSION
    kind: str = KIND
    feature_gates: dict[str, bool] = field(default_factory=dict)
    client_connection: ClientConnection = ClientConnection()
    logging: Logging = Logging()
    hostname_override: str = ""
    bind_address: str = "0.0.0.0"
    healthz_bind_address: str = f"0.0.0.0:{HEALTHZ_PORT}"
    metrics_bind_address: str = f"127.0.0.1:{METRICS_PORT}"
    bind_address_hard_fail: bool = False
    enable_profiling: bool = False
    show_hidden_metrics_for_version: str = ""
    mode: str = ""
    iptables: IPTables = IPTables()
    ipvs: IPVS = IPVS()
    nftables: NFTables = NFTables()
    winkernel: Winkernel = Winkernel()
    detect_local_mode: str = ""
    detect_local: DetectLocal = DetectLocal()
    cluster_cidr: str = field(name="clusterCIDR", default="")
    node_port_addresses: tuple[str, ...] = ()
    oom_score_adj: int = -999
    conntrack: Conntrack = Conntrack()
    config_sync_period: Duration = Duration("15m")
    port_range: str = ""
    udp_idle_timeout: Duration = Duration("0s")
    windows_run_as_service: bool = False

    @property
    def periods(self) -> IPTables | NFTables | IPVS:
        """The section whose sync periods are used: that of `mode`, or iptables if it has none."""
        return getattr(self, self.periods_section)  # type: ignore[no-any-return]

    @property
    def periods_section(self) -> str:
        return self.mode if self.mode in PERIOD_SECTIONS else "iptables"

    @property
    def local_mode(self) -> str:
        """`detect_local_mode`, or kube-proxy's default where it is empty."""
        return self.detect_local_mode or LocalMode.CLUSTER_CIDR

    @property
    def external_ips_allowed(self) -> bool:
        return self.feature_gates.get(EXTERNAL_IPS_GATE, True)

    @property
    def external_ips_asked_for(self) -> bool:
        """Whether the feature gate says so itself: some drivers serve external IPs only then."""
        return self.feature_gates.get(EXTERNAL_IPS_GATE, False)


PERIOD_SECTIONS = ("iptables", "nftables", "ipvs")

S = TypeVar("S", bound=Struct)


def leaves(struct: Struct, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All values except sections, each with its path."""
    for item in structs.fields(struct):
        value = getattr(struct, item.name)
        if isinstance(value, Struct):
            yield from leaves(value, f"{prefix}{item.encode_name}.")
        else:
            yield prefix + item.encode_name, value


def replaced(struct: S, values: Mapping[str, Any], prefix: str = "") -> S:
    """A copy with other values at the given paths, which must be leaves."""
    changes: dict[str, Any] = {}
    for item in structs.fields(struct):
        path, value = prefix + item.encode_name, getattr(struct, item.name)
        if isinstance(value, Struct):
            changes[item.name] = replaced(value, values, f"{path}.")
        elif path in values:
            changes[item.name] = values[path]
    return structs.replace(struct, **changes)


def plain(configuration: KubeProxyConfiguration) -> dict[str, Any]:
    """The configuration as it stands in a file: nothing but dicts, lists, text, numbers and booleans."""
    return json.decode(json.encode(configuration), type=dict[str, Any])
