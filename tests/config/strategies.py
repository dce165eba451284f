"""Valid configurations, for hypothesis."""

from typing import Any

from hypothesis import strategies as st

from userproxy.config.kubeproxy import KubeProxyConfiguration, LocalMode, leaves, replaced
from userproxy.durations import format_duration

_GO_DURATIONS = st.one_of(
    st.integers(1, 10**15).map(lambda nanoseconds: format_duration(nanoseconds / 1e9)),
    st.sampled_from(["1h2m3.5s", "15m0s", "24h0m0s", "1.5h", "2000ms"]),
)
_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
_NETWORKS = ["10.0.0.0/8", "192.168.1.7/24", "fd00::/8"]
_GATES = _TEXT | st.just("AllowServiceExternalIPs")

_VALID: dict[str, st.SearchStrategy[Any]] = {
    "featureGates": st.dictionaries(_GATES, st.booleans(), max_size=3),
    "clientConnection.kubeconfig": _TEXT,
    "clientConnection.qps": st.floats(0.5, 1e6),
    "clientConnection.burst": st.integers(1, 1000),
    "logging.format": st.sampled_from(["", "text", "json"]),
    "logging.verbosity": st.integers(0, 10),
    "hostnameOverride": st.sampled_from(["", "Node-1"]),
    "bindAddress": st.sampled_from(["0.0.0.0", "10.1.2.3", "::", "fd00:0::1"]),
    "healthzBindAddress": st.sampled_from(["0.0.0.0:1", "[::]:10256", "127.0.0.1:65535"]),
    "metricsBindAddress": st.sampled_from(["10.0.0.1:10249", "[::1]:10249"]),
    "bindAddressHardFail": st.booleans(),
    "mode": st.sampled_from(["", "userspace", "iptables", "nftables", "ipvs"]),
    "iptables.masqueradeBit": st.integers(0, 31),
    "iptables.localhostNodePorts": st.booleans(),
    "ipvs.excludeCIDRs": st.lists(_TEXT, max_size=2).map(tuple),
    "ipvs.scheduler": _TEXT,
    "winkernel.networkName": _TEXT,
    "detectLocalMode": st.sampled_from(["", *LocalMode]),
    "detectLocal.bridgeInterface": st.sampled_from(["cbr0", "cbr1"]),
    "detectLocal.interfaceNamePrefix": st.sampled_from(["veth", "cali"]),
    "clusterCIDR": st.sampled_from(["", "10.0.0.0/8", "10.0.0.0/8,fd00::/64", "fd00::/64, 10.0.0.0/8"]),
    "nodePortAddresses": st.one_of(st.just(("primary",)), st.lists(st.sampled_from(_NETWORKS), max_size=3).map(tuple)),
    "oomScoreAdj": st.integers(-1000, 1000),
    "conntrack.maxPerCore": st.integers(0, 2**31 - 1),
    "conntrack.tcpEstablishedTimeout": st.one_of(st.just("0s"), _GO_DURATIONS),
    "configSyncPeriod": _GO_DURATIONS,
    "udpIdleTimeout": _GO_DURATIONS,
    "portRange": st.sampled_from(["", "0-0", "4000-4999", "4000+10"]),
}


@st.composite
def configurations(draw: st.DrawFn) -> KubeProxyConfiguration:
    """A defaulted configuration that a file can express."""
    values = draw(st.fixed_dictionaries({}, optional=_VALID))
    if values.get("detectLocalMode") == LocalMode.BRIDGE_INTERFACE:
        values.setdefault("detectLocal.bridgeInterface", "cbr0")
    if values.get("detectLocalMode") == LocalMode.INTERFACE_NAME_PREFIX:
        values.setdefault("detectLocal.interfaceNamePrefix", "veth")
    for section in ("iptables", "nftables", "ipvs"):
        if draw(st.booleans()):
            values |= {f"{section}.minSyncPeriod": "1ms", f"{section}.syncPeriod": draw(st.sampled_from(["1s", "1h"]))}
    assert values.keys() <= dict(leaves(KubeProxyConfiguration())).keys()
    return replaced(KubeProxyConfiguration(), values)
