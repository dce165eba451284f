"""Checks the values of a KubeProxyConfiguration by kube-proxy's rules, and by what userproxy can serve.

Differences from kube-proxy: feature gates of any release and any ``<major>.<minor>`` of hidden metrics are accepted,
because they have no effect here; periods are checked only in the section that is used; names of interfaces must be
such that iptables accepts them.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator

from userproxy.addresses import is_ipv6, parse_network, parse_socket_address
from userproxy.config.file import InvalidField
from userproxy.config.kubeproxy import HEALTHZ_PORT, METRICS_PORT, KubeProxyConfiguration, LocalMode, leaves
from userproxy.durations import parse_duration
from userproxy.forwarding.ports.ranges import parse_port_range

MODES = ("userspace", "iptables", "nftables", "ipvs")
LOG_FORMATS = ("text", "json")

_AT_LEAST_ZERO = (
    "clientConnection.burst",
    "conntrack.maxPerCore",
    "conntrack.min",
    "conntrack.tcpEstablishedTimeout",
    "conntrack.tcpCloseWaitTimeout",
    "conntrack.udpTimeout",
    "conntrack.udpStreamTimeout",
    "logging.verbosity",
    "udpIdleTimeout",
)
_ABOVE_ZERO = ("configSyncPeriod",)
_RANGES = {
    "iptables.masqueradeBit": (0, 31),
    "nftables.masqueradeBit": (0, 31),
    "oomScoreAdj": (-1000, 1000),
}

_LONGEST_INTERFACE = 15
"""Linux's IFNAMSIZ less the byte that ends the name."""


def check(configuration: KubeProxyConfiguration) -> Iterator[InvalidField]:
    """Every field with an invalid value, in no particular order. All durations must be well-formed."""
    yield from _numbers(configuration)
    yield from _choices(configuration)
    yield from _addresses(configuration)
    yield from _networks(configuration)
    yield from _detection(configuration)
    yield from _names(configuration)


def _numbers(configuration: KubeProxyConfiguration) -> Iterator[InvalidField]:
    values = dict(leaves(configuration))
    section = configuration.periods_section
    for path in (*_AT_LEAST_ZERO, f"{section}.minSyncPeriod"):
        if _number(values[path]) < 0:
            yield InvalidField(path, f"{values[path]} is negative")
    for path in (*_ABOVE_ZERO, f"{section}.syncPeriod"):
        if _number(values[path]) <= 0:
            yield InvalidField(path, f"{values[path]} is not greater than 0")
    for path, (least, most) in _RANGES.items():
        if not least <= values[path] <= most:
            yield InvalidField(path, f"{values[path]} is not from {least} to {most}")
    sync, minimum = configuration.periods.sync_period, configuration.periods.min_sync_period
    if 0 < parse_duration(sync) < parse_duration(minimum):
        yield InvalidField(
            f"{section}.syncPeriod", f"{sync} is shorter than the least time between two syncs ({minimum})"
        )


def _choices(configuration: KubeProxyConfiguration) -> Iterator[InvalidField]:
    for path, value, choices in (
        ("mode", configuration.mode, MODES),
        ("detectLocalMode", configuration.detect_local_mode, tuple(LocalMode)),
        ("logging.format", configuration.logging.format, LOG_FORMATS),
    ):
        if value and value not in choices:
            yield InvalidField(path, f"{value!r} is not one of {', '.join(choices)}")


def _addresses(configuration: KubeProxyConfiguration) -> Iterator[InvalidField]:
    yield from _unless_valid("bindAddress", _check_address, configuration.bind_address)
    if configuration.healthz_bind_address:
        path, address = "healthzBindAddress", configuration.healthz_bind_address
        yield from _unless_valid(path, lambda text: parse_socket_address(text, HEALTHZ_PORT), address)
    path, address = "metricsBindAddress", configuration.metrics_bind_address
    yield from _unless_valid(path, lambda text: parse_socket_address(text, METRICS_PORT), address)


def _networks(configuration: KubeProxyConfiguration) -> Iterator[InvalidField]:
    addresses = configuration.node_port_addresses
    if addresses != ("primary",):
        for text in addresses:
            yield from _unless_valid("nodePortAddresses", parse_network, text)
    if not configuration.cluster_cidr:
        return
    parts = configuration.cluster_cidr.split(",")
    wrong = [problem for part in parts for problem in _unless_valid("clusterCIDR", parse_network, part)]
    yield from wrong
    if len(parts) > 2:
        yield InvalidField("clusterCIDR", f"{configuration.cluster_cidr} has more than two networks")
    elif len(parts) == 2 and not wrong and is_ipv6(parts[0]) == is_ipv6(parts[1]):
        yield InvalidField("clusterCIDR", f"{configuration.cluster_cidr} has two networks of one IP family")


def _detection(configuration: KubeProxyConfiguration) -> Iterator[InvalidField]:
    detect = configuration.detect_local
    for mode, path, value, longest in (
        (LocalMode.BRIDGE_INTERFACE, "detectLocal.bridgeInterface", detect.bridge_interface, _LONGEST_INTERFACE),
        (
            LocalMode.INTERFACE_NAME_PREFIX,
            "detectLocal.interfaceNamePrefix",
            detect.interface_name_prefix,
            _LONGEST_INTERFACE - 1,  # iptables writes a + behind it
        ),
    ):
        if configuration.local_mode == mode:
            yield from _interface(mode, path, value, longest)


def _interface(mode: str, path: str, value: str, longest: int) -> Iterator[InvalidField]:
    if not value:
        yield InvalidField(path, f"{value!r} is empty, and the local mode {mode} needs it")
    elif len(value) > longest:
        yield InvalidField(path, f"{value!r} has more than {longest} characters")
    elif not re.fullmatch(r"[\w.@][\w.@-]*", value, re.ASCII):
        yield InvalidField(path, f"{value!r} is not the name of an interface, as iptables takes it")


def _names(configuration: KubeProxyConfiguration) -> Iterator[InvalidField]:
    if configuration.hostname_override and not configuration.hostname_override.strip():
        yield InvalidField("hostnameOverride", f"{configuration.hostname_override!r} is nothing but blanks")
    version = configuration.show_hidden_metrics_for_version
    if version and not re.fullmatch(r"[0-9]+\.[0-9]+", version):
        yield InvalidField("showHiddenMetricsForVersion", f"{version!r} is not a version such as 1.35")
    yield from _unless_valid("portRange", parse_port_range, configuration.port_range)


def _unless_valid(path: str, parse: Callable[[str], object], text: str) -> Iterator[InvalidField]:
    try:
        parse(text)
    except ValueError as error:
        yield InvalidField(path, str(error))


def _check_address(text: str) -> None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address") from None
    if isinstance(address, ipaddress.IPv6Address) and (address.scope_id or address.ipv4_mapped):
        raise ValueError(f"{text!r} has a zone or an IPv4 address in it, and no portal rule can lead there")


def _number(value: str | float) -> float:
    return parse_duration(value) if isinstance(value, str) else value
