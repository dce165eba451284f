"""Every flag of ``userproxy run`` once: its kind, where its value goes, and what it means.

Defaults stand with the fields that the flags set. Names and meanings of kube-proxy's flags are those of 1.36 and, for
the userspace mode, of 1.25.
"""

from typing import Any

from msgspec import Struct, structs

from userproxy.config.flag_types import (
    ADDRESS,
    COUNT,
    DURATION,
    FILE,
    GATES,
    LABEL,
    LIST,
    MARK,
    NAME,
    NETWORKS,
    NUMBER,
    PATHS,
    PORT,
    PORTS,
    REAL,
    SWITCH,
    TEXT,
    VMODULE,
    WORKERS,
    FlagType,
    choice,
    seconds,
)
from userproxy.config.kubeproxy import KubeProxyConfiguration, leaves
from userproxy.config.settings import AfterTakeover, AtStop, EventLoop, OwnSettings, PortalMode
from userproxy.durations import format_duration
from userproxy.model import ClientAddress


class Flag(Struct, frozen=True):
    """One flag, by name without dashes.

    Its value goes to `paths` of the configuration, or to `field` of OwnSettings, or the command acts on it.
    `beside_config`: it counts even where ``--config`` is given.
    """

    name: str
    kind: FlagType
    help: str
    paths: tuple[str, ...] = ()
    field: str = ""
    beside_config: bool = False


def _own(name: str, kind: FlagType, help_text: str, field: str = "") -> Flag:
    return Flag(name, kind, help_text, field=field or name.replace("-", "_"), beside_config=True)


def _kept(name: str, kind: FlagType, help_text: str, *paths: str) -> Flag:
    return Flag(name, kind, help_text, paths, beside_config=True)


def _set(name: str, kind: FlagType, help_text: str, *paths: str) -> Flag:
    return Flag(name, kind, help_text, paths)


_NONE = "No effect here."

FLAGS: tuple[Flag, ...] = (
    _own(
        "manifests",
        PATHS,
        "YAML file, or directory of them, with Services, EndpointSlices, Endpoints and Nodes; followed as it changes."
        " Repeatable. Without it the source is the API server.",
    ),
    _own("portals", choice(PortalMode), "What brings packets to the listeners; auto takes the first that works here."),
    _own(
        "local-ports-file",
        FILE,
        "Where --portals none remembers local ports for the next start; in /run/userproxy for root, else in"
        " ~/.local/state/userproxy by default.",
    ),
    _own(
        "conntrack-guard",
        SWITCH,
        "Keep a table of nf_tables that outlives a flush of all rules, so that established connections do, too. nft up"
        " to 1.0.6 writes wrong JSON for such a table.",
    ),
    _own(
        "admin-socket",
        TEXT,
        "Where commands such as `userproxy get` ask this proxy: a Unix socket, for root and its own user alone;"
        " /run/userproxy/admin.sock for root, else in $XDG_RUNTIME_DIR by default. Empty for none.",
    ),
    _own(
        "takeover",
        SWITCH,
        "Take over from the userproxy that serves here, which is asked beside its admin socket: listeners, connections"
        " and flows go on in this process. Without one, start as usual.",
    ),
    _own(
        "after-takeover",
        choice(AfterTakeover),
        "What a process does when another one has taken over from it: exit, or wait to be told to, which is for Pods"
        " that would be restarted otherwise.",
    ),
    _own(
        "allow-capture",
        SWITCH,
        "Let `userproxy capture` show the bytes of connections to whoever may use the admin socket.",
    ),
    _own(
        "allow-faults",
        SWITCH,
        "Let `userproxy fault` make connections slow, or reset or refuse them, for whoever may use the admin socket.",
    ),
    _own(
        "at-stop",
        choice(AtStop),
        "What a stop does with the rules. If they are left, clients are refused until the next start.",
    ),
    _own(
        "drain-delay",
        seconds(zero=True),
        "How long a stop goes on as before while health checks already say 503.",
    ),
    _own("drain-timeout", seconds(zero=True), "How long a stop then waits for connections to end."),
    _own(
        "linger",
        seconds(zero=True),
        "How long a stop goes on serving, before it removes the rules, where our Node has lost the label"
        " userproxy.io/node: another proxy is about to serve it.",
    ),
    _own(
        "half-open-timeout",
        seconds(zero=False),
        "A connection closed by one side only is reset after this time without a byte.",
    ),
    _own(
        "queue-timeout",
        seconds(zero=False),
        "How long a client waits at most where the annotations userproxy.io/max-connections or"
        " userproxy.io/connection-rate of its Service leave no room.",
    ),
    _own(
        "service-proxy-name",
        LABEL,
        "Serve only Services labelled service.kubernetes.io/service-proxy-name: NAME.",
        "proxy_name",
    ),
    _own(
        "reserved-node-ports",
        PORTS,
        "Ports of the node's own services, such as 10250 or 6443-6445: on the node's addresses no external IP,"
        " load-balancer IP or cluster IP may have them.",
    ),
    _own(
        "metrics-services",
        COUNT,
        "How many service ports have metrics of their own, those with clients first; others are added up as _rest.",
    ),
    _own(
        "client-address",
        choice(ClientAddress),
        "Whose address backends see: auto is the client's wherever answers to it come back through this node, keep also"
        " where that is not known, node is always this node's. A Service may say otherwise by the annotation"
        " userproxy.io/client-address.",
    ),
    _own(
        "transparent-mark",
        MARK,
        "Bits of packets' marks by which answers to clients' addresses come back here; nobody else is to use them.",
    ),
    _own(
        "trusted-proxies",
        NETWORKS,
        "Networks whose PROXY header is believed, for Services with the annotation userproxy.io/accept-proxy-protocol.",
    ),
    _own(
        "workers",
        WORKERS,
        "How many processes carry the traffic, apart from the one that follows the API and writes rules; 0 is"
        " everything in one process, auto one for each processor but one, at most four.",
    ),
    _own("event-loop", choice(EventLoop), "Which event loop carries the traffic."),
    _own("context", NAME, "Context of the kubeconfig; its current one by default."),
    _own("master", NAME, "Address of the API server, before what the kubeconfig says."),
    _own(
        "config", FILE, "KubeProxyConfiguration file; most other flags of kube-proxy are then ignored.", "config_file"
    ),
    Flag("write-config-to", FILE, "Write the configuration with its defaults to FILE and exit.", beside_config=True),
    Flag("cleanup", SWITCH, "Remove what a killed proxy left behind, and exit.", beside_config=True),
    Flag("init-only", SWITCH, "Check the configuration, set conntrack.* in the kernel, and exit.", beside_config=True),
    _kept("hostname-override", TEXT, "Name of this Node; the host's name by default.", "hostnameOverride"),
    _set(
        "kubeconfig",
        TEXT,
        "Credentials for the API server; those of the Pod by default.",
        "clientConnection.kubeconfig",
    ),
    _set(
        "bind-address",
        TEXT,
        "IP address where listeners of its family bind; those of the other bind to all.",
        "bindAddress",
    ),
    _set(
        "proxy-port-range",
        TEXT,
        "Local ports for listeners: N, min-max or min+offset; empty lets the kernel pick.",
        "portRange",
    ),
    _set("healthz-bind-address", ADDRESS, "Where /healthz and /livez are served.", "healthzBindAddress"),
    _set("metrics-bind-address", ADDRESS, "Where /metrics is served.", "metricsBindAddress"),
    Flag("healthz-port", PORT, "Deprecated: port of --healthz-bind-address; 0 for no such server."),
    Flag("metrics-port", PORT, "Deprecated: port of --metrics-bind-address."),
    _set("bind-address-hard-fail", SWITCH, "Exit where one of these addresses is taken.", "bindAddressHardFail"),
    _set("proxy-mode", TEXT, "kube-proxy's modes are accepted; all mean userspace.", "mode"),
    _set(
        "iptables-sync-period",
        DURATION,
        "At least this often all rules are checked.",
        "iptables.syncPeriod",
        "nftables.syncPeriod",
    ),
    _set(
        "iptables-min-sync-period",
        DURATION,
        "Least time between two syncs.",
        "iptables.minSyncPeriod",
        "nftables.minSyncPeriod",
    ),
    _set("ipvs-sync-period", DURATION, "--iptables-sync-period with --proxy-mode ipvs.", "ipvs.syncPeriod"),
    _set("ipvs-min-sync-period", DURATION, "--iptables-min-sync-period with --proxy-mode ipvs.", "ipvs.minSyncPeriod"),
    _set("config-sync-period", DURATION, "How often all objects are looked at again.", "configSyncPeriod"),
    _set(
        "udp-timeout", DURATION, "How long a silent UDP flow is kept; 0s for userproxy's own choice.", "udpIdleTimeout"
    ),
    _set("nodeport-addresses", LIST, "Networks whose addresses take node ports, or primary.", "nodePortAddresses"),
    _set("cluster-cidr", TEXT, "Network of the Pods; one for each IP family.", "clusterCIDR"),
    _set("detect-local-mode", TEXT, "How traffic of Pods on this node is told.", "detectLocalMode"),
    _set("pod-bridge-interface", TEXT, "For --detect-local-mode BridgeInterface.", "detectLocal.bridgeInterface"),
    _set(
        "pod-interface-name-prefix",
        TEXT,
        "For --detect-local-mode InterfaceNamePrefix.",
        "detectLocal.interfaceNamePrefix",
    ),
    _set("oom-score-adj", NUMBER, "How readily the kernel kills this process, -1000..1000.", "oomScoreAdj"),
    _kept("logging-format", TEXT, "text or json; by default text on a terminal, else json.", "logging.format"),
    _kept("v", NUMBER, "Log verbosity, as kube-proxy's.", "logging.verbosity"),
    _kept("vmodule", VMODULE, _NONE, "logging.vmodule"),
    _kept("log-flush-frequency", DURATION, _NONE, "logging.flushFrequency"),
    _kept("log-json-info-buffer-size", TEXT, _NONE, "logging.options.json.infoBufferSize"),
    _kept("log-json-split-stream", SWITCH, _NONE, "logging.options.json.splitStream"),
    _kept("log-text-info-buffer-size", TEXT, _NONE, "logging.options.text.infoBufferSize"),
    _kept("log-text-split-stream", SWITCH, _NONE, "logging.options.text.splitStream"),
    _set(
        "feature-gates",
        GATES,
        "AllowServiceExternalIPs=false leaves external IPs unserved; no other gate has an effect here.",
        "featureGates",
    ),
    _set("profiling", SWITCH, _NONE, "enableProfiling"),
    _set("show-hidden-metrics-for-version", TEXT, _NONE, "showHiddenMetricsForVersion"),
    _set("kube-api-content-type", TEXT, _NONE, "clientConnection.contentType"),
    _set("kube-api-qps", REAL, _NONE, "clientConnection.qps"),
    _set("kube-api-burst", NUMBER, _NONE, "clientConnection.burst"),
    _set("masquerade-all", SWITCH, _NONE, "iptables.masqueradeAll", "nftables.masqueradeAll"),
    _set("iptables-masquerade-bit", NUMBER, _NONE, "iptables.masqueradeBit"),
    _set(
        "iptables-localhost-nodeports",
        SWITCH,
        "Serve node ports on IPv4 loopback addresses, too.",
        "iptables.localhostNodePorts",
    ),
    _set("ipvs-scheduler", TEXT, _NONE, "ipvs.scheduler"),
    _set("ipvs-exclude-cidrs", LIST, _NONE, "ipvs.excludeCIDRs"),
    _set("ipvs-strict-arp", SWITCH, _NONE, "ipvs.strictARP"),
    _set("ipvs-tcp-timeout", DURATION, _NONE, "ipvs.tcpTimeout"),
    _set("ipvs-tcpfin-timeout", DURATION, _NONE, "ipvs.tcpFinTimeout"),
    _set("ipvs-udp-timeout", DURATION, _NONE, "ipvs.udpTimeout"),
    _set(
        "conntrack-max-per-core",
        NUMBER,
        "Entries of conntrack for each processor; 0 leaves their number alone.",
        "conntrack.maxPerCore",
    ),
    _set("conntrack-min", NUMBER, "At least so many entries of conntrack.", "conntrack.min"),
    _set(
        "conntrack-tcp-timeout-established",
        DURATION,
        "When conntrack forgets a quiet connection.",
        "conntrack.tcpEstablishedTimeout",
    ),
    _set(
        "conntrack-tcp-timeout-close-wait",
        DURATION,
        "When conntrack forgets a half-closed one.",
        "conntrack.tcpCloseWaitTimeout",
    ),
    _set(
        "conntrack-tcp-be-liberal",
        SWITCH,
        "Have conntrack accept segments outside the window.",
        "conntrack.tcpBeLiberal",
    ),
    _set("conntrack-udp-timeout", DURATION, "When conntrack forgets an unanswered UDP flow.", "conntrack.udpTimeout"),
    _set(
        "conntrack-udp-timeout-stream",
        DURATION,
        "When conntrack forgets an answered UDP flow.",
        "conntrack.udpStreamTimeout",
    ),
)


def default_text(flag: Flag) -> str:
    """The flag's default as a person would write it; empty where it is empty, false or unset."""
    value: Any = None
    if flag.paths:
        value = dict(leaves(KubeProxyConfiguration()))[flag.paths[0]]
    elif flag.field:
        value = {item.name: item.default for item in structs.fields(OwnSettings)}[flag.field]
    if value is None or value is False or value == () or value == {}:
        return ""
    if value is True:
        return "true"
    return format_duration(value) if flag.kind.metavar == "DURATION" and not isinstance(value, str) else str(value)


def flag_of_path(path: str) -> str:
    """The flag that sets the value at `path`, with its dashes, or the path itself where there is none."""
    return next((f"--{flag.name}" for flag in FLAGS if path in flag.paths), path)


def flag_of_field(field: str) -> str:
    """The flag that sets a field of OwnSettings, with its dashes."""
    return next(f"--{flag.name}" for flag in FLAGS if flag.field == field)
