"""Fields of the configuration that have no effect in userproxy.

They are accepted, so that a file written for kube-proxy starts userproxy, and named in the log once.
"""

from collections.abc import Iterator

from userproxy.config.kubeproxy import EXTERNAL_IPS_GATE, PERIOD_SECTIONS, KubeProxyConfiguration, LocalMode, leaves

_NO_EFFECT = frozenset(
    {
        "configSyncPeriod",
        "clientConnection.acceptContentTypes",
        "clientConnection.contentType",
        "clientConnection.qps",
        "clientConnection.burst",
        "enableProfiling",
        "showHiddenMetricsForVersion",
        "windowsRunAsService",
        "logging.flushFrequency",
        "logging.vmodule",
        "iptables.masqueradeAll",
        "iptables.masqueradeBit",
    }
)
_NO_EFFECT_SECTIONS = (
    "nftables.",
    "ipvs.",
    "winkernel.",
    "logging.options.",
)
PERIODS = frozenset(f"{section}.{name}" for section in PERIOD_SECTIONS for name in ("syncPeriod", "minSyncPeriod"))
"""All sync periods. Only those of one section have an effect."""
_LOCAL_MODES = {
    "clusterCIDR": LocalMode.CLUSTER_CIDR,
    "detectLocal.bridgeInterface": LocalMode.BRIDGE_INTERFACE,
    "detectLocal.interfaceNamePrefix": LocalMode.INTERFACE_NAME_PREFIX,
}
"""Fields that only one local mode uses."""


def without_effect(configuration: KubeProxyConfiguration) -> Iterator[str]:
    """The paths of values that are not the default and have no effect, among them single feature gates."""
    default = dict(leaves(KubeProxyConfiguration()))
    for path, value in leaves(configuration):
        if value != default[path] and not has_effect(path, configuration):
            yield path
    yield from (f"featureGates.{gate}" for gate in configuration.feature_gates if gate != EXTERNAL_IPS_GATE)


def has_effect(path: str, configuration: KubeProxyConfiguration) -> bool:
    """Whether the value at `path` has an effect in userproxy."""
    if path in PERIODS:
        return path.startswith(f"{configuration.periods_section}.")
    if path in _LOCAL_MODES:
        return configuration.local_mode == _LOCAL_MODES[path]
    return path not in _NO_EFFECT and not path.startswith(_NO_EFFECT_SECTIONS)
