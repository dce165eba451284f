"""Which values mean nothing to userproxy: accepted, so that a file written for kube-proxy starts it, and named once."""

from collections.abc import Iterator

from userproxy.config.kubeproxy import PERIOD_SECTIONS, KubeProxyConfiguration, leaves

_NO_EFFECT = frozenset(
    {
        "clusterCIDR",
        "configSyncPeriod",
        "detectLocalMode",
        "featureGates",
        "nodePortAddresses",
        "udpIdleTimeout",
        "clientConnection.acceptContentTypes",
        "clientConnection.contentType",
        "clientConnection.qps",
        "clientConnection.burst",
        "enableProfiling",
        "showHiddenMetricsForVersion",
        "windowsRunAsService",
        "logging.flushFrequency",
        "logging.vmodule",
    }
)
_NO_EFFECT_SECTIONS = (
    "detectLocal.",
    "iptables.",
    "nftables.",
    "ipvs.",
    "conntrack.",
    "winkernel.",
    "logging.options.",
)
PERIODS = frozenset(f"{section}.{name}" for section in PERIOD_SECTIONS for name in ("syncPeriod", "minSyncPeriod"))
"""All sync periods; those of one section count."""


def without_effect(configuration: KubeProxyConfiguration) -> Iterator[str]:
    """Paths of values that differ from their default and mean nothing to userproxy."""
    default = dict(leaves(KubeProxyConfiguration()))
    for path, value in leaves(configuration):
        if value != default[path] and not has_effect(path, configuration):
            yield path


def has_effect(path: str, configuration: KubeProxyConfiguration) -> bool:
    """Whether the value at `path` means something to userproxy."""
    if path in PERIODS:
        return path.startswith(f"{configuration.periods_section}.")
    return path not in _NO_EFFECT and not path.startswith(_NO_EFFECT_SECTIONS)
