"""What may change in a running proxy changes; all else is named and stays."""

from pathlib import Path

from hypothesis import given, settings

from tests.config.strategies import configurations
from userproxy.config import OwnSettings, Settings, load, reload
from userproxy.config.kubeproxy import KubeProxyConfiguration
from userproxy.config.reload import changed_in_vain
from userproxy.config.settings import settings_from


def from_text(folder: Path, text: str, **flags: str) -> Settings:
    file = folder / "config.conf"
    file.write_text(f"apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{text}")
    return load({"config": str(file)} | flags).settings


def test_safe_changes_are_taken_and_others_named(tmp_path: Path) -> None:
    old = from_text(tmp_path, "bindAddress: 10.0.0.1\nlogging: {verbosity: 1}\n")
    new = from_text(
        tmp_path,
        "bindAddress: 10.0.0.2\nlogging: {verbosity: 4, format: json}\niptables: {syncPeriod: 9s, minSyncPeriod: 3s}\n"
        "oomScoreAdj: 0\nipvs: {scheduler: rr}\n",
    )
    merged, restart = reload(old, new)
    assert restart == ("bindAddress", "oomScoreAdj")
    assert (merged.verbosity, merged.log_format, merged.sync_period, merged.min_sync_period) == (4, "json", 9.0, 3.0)
    assert (merged.bind_address, merged.oom_score_adj) == ("10.0.0.1", -999)
    assert merged.configuration.ipvs.scheduler == "rr"
    assert merged.configuration.bind_address == "10.0.0.1"


def test_what_changes_in_vain_is_named(tmp_path: Path) -> None:
    """Among it how fast the API is asked: an admin who changes that is to know that nothing follows."""
    old = from_text(tmp_path, "oomScoreAdj: 1\n")
    text = "oomScoreAdj: 2\nclientConnection: {qps: 50, burst: 100}\nipvs: {scheduler: rr}\n"
    assert changed_in_vain(old, from_text(tmp_path, text)) == (
        "clientConnection.qps",
        "clientConnection.burst",
        "ipvs.scheduler",
    )
    assert changed_in_vain(old, old) == ()


def test_other_credentials_need_a_restart(tmp_path: Path) -> None:
    old, new = (from_text(tmp_path, f"clientConnection: {{kubeconfig: /{name}}}\n") for name in ("a", "b"))
    assert reload(old, new)[1] == ("clientConnection.kubeconfig",)
    assert changed_in_vain(old, new) == ()


def test_a_mode_brings_its_periods(tmp_path: Path) -> None:
    text = "nftables: {syncPeriod: 9s, minSyncPeriod: 2s}\n"
    merged, restart = reload(from_text(tmp_path, text), from_text(tmp_path, f"{text}mode: nftables\n"))
    assert restart == ()
    assert (merged.sync_period, merged.min_sync_period) == (9.0, 2.0)


def test_where_packets_go_changes_with_a_restart_only(tmp_path: Path) -> None:
    old = from_text(tmp_path, "clusterCIDR: 10.0.0.0/8\n")
    merged, restart = reload(
        old,
        from_text(
            tmp_path,
            "clusterCIDR: 11.0.0.0/8\ndetectLocalMode: NodeCIDR\nnodePortAddresses: [primary]\nudpIdleTimeout: 1s\n"
            "iptables: {localhostNodePorts: false}\nfeatureGates: {AllowServiceExternalIPs: false, A: true}\n",
        ),
    )
    assert set(restart) == {
        "clusterCIDR", "detectLocalMode", "nodePortAddresses", "udpIdleTimeout", "iptables.localhostNodePorts",
        "featureGates",
    }  # fmt: skip
    assert merged == old


def test_conntrack_follows(tmp_path: Path) -> None:
    old = from_text(tmp_path, "conntrack: {min: 5}\n")
    new = from_text(tmp_path, "conntrack: {maxPerCore: 6, tcpCloseWaitTimeout: 30s, tcpBeLiberal: true}\n")
    assert reload(old, new) == (new, ())
    assert (new.conntrack.max_per_core, new.conntrack.tcp_close_wait_timeout, new.conntrack.min) == (6, 30.0, 131072)


def test_gates_without_effect_change_silently(tmp_path: Path) -> None:
    old = from_text(tmp_path, "featureGates: {A: true}\n")
    new = from_text(tmp_path, "featureGates: {B: true, AllowServiceExternalIPs: true}\n")
    assert reload(old, new) == (new, ())


def test_settings_of_flags() -> None:
    old, new = Settings(), Settings(drain_timeout=1.0, half_open_timeout=2.0, proxy_name="x", master="m")
    merged, restart = reload(old, new)
    assert merged == old, "a running process has the flags that it was started with"
    assert restart == ("--master", "--drain-timeout", "--half-open-timeout", "--service-proxy-name")


@given(configurations(), configurations())
@settings(deadline=None)
def test_any_two(before: KubeProxyConfiguration, after: KubeProxyConfiguration) -> None:
    old, new = settings_from(before, OwnSettings()), settings_from(after, OwnSettings())
    assert reload(old, old) == (old, ())
    merged, restart = reload(old, new)
    assert (merged.verbosity, merged.log_format) == (new.verbosity, new.log_format)
    assert (merged.sync_period, merged.min_sync_period) == (new.sync_period, new.min_sync_period)
    assert reload(merged, new) == (merged, restart)
    assert (merged == new) == (restart == ())
