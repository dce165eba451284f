"""Flags and file become settings; every mistake is one line naming flag, or file and field, and value."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from userproxy.addresses import SocketAddress
from userproxy.config import EventLoop, Notice, PortalMode, Settings, configz, load, require_source
from userproxy.config.kubeproxy import LocalMode
from userproxy.config.load import Given
from userproxy.errors import UsageError
from userproxy.forwarding.ports.ranges import PortRange
from userproxy.model import ClientAddress
from userproxy.routing.reserved_ports import ReservedPorts

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
KUBEADM = str(Path(__file__).with_name("kubeadm.conf"))


def config(folder: Path, text: str) -> str:
    file = folder / "config.conf"
    file.write_text(HEAD + text)
    return str(file)


def mistakes(given: Given) -> list[str]:
    with pytest.raises(UsageError) as caught:
        load(given)
    return str(caught.value).splitlines()


def notices(given: Given) -> list[tuple[str, object]]:
    return [(notice.text, next(reversed(notice.fields.values()))) for notice in load(given).notices]


def test_defaults() -> None:
    settings = load({}).settings
    assert settings == Settings()
    assert (settings.portals, settings.event_loop) == (PortalMode.AUTO, EventLoop.AUTO)
    assert (settings.sync_period, settings.min_sync_period, settings.config_sync_period) == (30.0, 1.0, 900.0)
    assert (settings.drain_timeout, settings.half_open_timeout, settings.udp_timeout) == (30.0, 600.0, None)
    assert settings.port_range == PortRange()
    assert str(settings.healthz_bind_address) == "0.0.0.0:10256"
    assert str(settings.metrics_bind_address) == "127.0.0.1:10249"


@pytest.mark.parametrize(
    ("flag", "value", "field", "expected"),
    [
        ("manifests", ["/a", "/b,c"], "manifests", (Path("/a"), Path("/b,c"))),
        ("portals", "none", "portals", PortalMode.NONE),
        ("drain-timeout", "0", "drain_timeout", 0.0),
        ("half-open-timeout", "1m30s", "half_open_timeout", 90.0),
        ("queue-timeout", "5s", "queue_timeout", 5.0),
        ("service-proxy-name", "mine", "proxy_name", "mine"),
        ("event-loop", "asyncio", "event_loop", EventLoop.ASYNCIO),
        ("reserved-node-ports", "22,9100-9101", "reserved_node_ports", ReservedPorts(((22, 22), (9100, 9101)))),
        ("reserved-node-ports", "", "reserved_node_ports", ReservedPorts()),
        ("metrics-services", "0", "metrics_services", 0),
        ("client-address", "keep", "client_address", ClientAddress.KEEP),
        ("trusted-proxies", ["10.1.2.3/8,fd00::/8", "10.0.0.0/8"], "trusted_proxies", ("10.0.0.0/8", "fd00::/8")),
        ("master", "https://10.0.0.1", "master", "https://10.0.0.1"),
        ("master", "", "master", None),
        ("hostname-override", " Node-1 ", "hostname_override", "node-1"),
        ("kubeconfig", "/etc/k", "kubeconfig", Path("/etc/k")),
        ("bind-address", "10.0.0.1", "bind_address", "10.0.0.1"),
        ("bind-address", "FD00:0::1", "bind_address", "fd00::1"),
        ("proxy-port-range", "10-20", "port_range", PortRange(10, 20)),
        ("healthz-bind-address", "10.0.0.1", "healthz_bind_address", SocketAddress("10.0.0.1", 10256)),
        ("healthz-bind-address", "[::]:1", "healthz_bind_address", SocketAddress("::", 1)),
        ("healthz-port", "0", "healthz_bind_address", None),
        ("healthz-port", "99", "healthz_bind_address", SocketAddress("0.0.0.0", 99)),
        ("metrics-bind-address", "::", "metrics_bind_address", SocketAddress("::", 10249)),
        ("metrics-port", "99", "metrics_bind_address", SocketAddress("127.0.0.1", 99)),
        ("bind-address-hard-fail", "T", "bind_address_hard_fail", True),
        ("iptables-sync-period", "1m", "sync_period", 60.0),
        ("iptables-min-sync-period", "0", "min_sync_period", 0.0),
        ("config-sync-period", "1h", "config_sync_period", 3600.0),
        ("udp-timeout", "1s", "udp_timeout", 1.0),
        ("udp-timeout", "250ms", "udp_timeout", 0.25),
        ("nodeport-addresses", ["10.0.0.0/8,11.0.0.7/8", "fd00:0::/8"], "node_port_addresses",
         ("10.0.0.0/8", "11.0.0.0/8", "fd00::/8")),
        ("nodeport-addresses", ["primary"], "node_port_addresses", ("primary",)),
        ("iptables-localhost-nodeports", "false", "localhost_node_ports", False),
        ("cluster-cidr", "10.1.0.0/8, fd00::/8", "cluster_cidr", ("10.0.0.0/8", "fd00::/8")),
        ("detect-local-mode", "NodeCIDR", "detect_local_mode", LocalMode.NODE_CIDR),
        ("oom-score-adj", "-5", "oom_score_adj", -5),
        ("feature-gates", ["A=true,AllowServiceExternalIPs=false"], "external_ips_allowed", False),
        ("logging-format", "json", "log_format", "json"),
        ("v", "4", "verbosity", 4),
    ],
)  # fmt: skip
def test_flags_become_settings(flag: str, value: str | Sequence[str], field: str, expected: object) -> None:
    assert getattr(load({flag: value}).settings, field) == expected
    assert getattr(Settings(), field) != expected or value == ""


@pytest.mark.parametrize(
    ("flag", "value", "sentence"),
    [
        ("portals", "ipvs", "--portals: 'ipvs' is not one of auto, iptables, nftables, local, none"),
        ("bind-address", "node1", "--bind-address: 'node1' is not an IP address"),
        ("proxy-port-range", "9-1", "--proxy-port-range: '9-1' ends before it begins"),
        ("iptables-sync-period", "0", "--iptables-sync-period: 0 is not greater than 0"),
        ("iptables-sync-period", "10", "--iptables-sync-period: '10' is not a duration"),
        ("iptables-sync-period", "500ms", "--iptables-sync-period: 500ms is shorter than the least time between"),
        ("iptables-min-sync-period", "1m", "--iptables-sync-period: 30s is shorter than the least time between"),
        ("iptables-min-sync-period", "-1s", "--iptables-min-sync-period: -1s is negative"),
        ("drain-timeout", "soon", "--drain-timeout: 'soon' is not a duration"),
        ("drain-timeout", "-5s", "--drain-timeout: -5s is negative"),
        ("reserved-node-ports", "22-21", "--reserved-node-ports: '22-21' ends before it begins"),
        ("metrics-services", "-1", "--metrics-services: -1 is negative"),
        ("metrics-services", "all", "--metrics-services: 'all' is not a whole number"),
        ("half-open-timeout", "0s", "--half-open-timeout: 0s is not greater than 0"),
        ("service-proxy-name", " ", "--service-proxy-name: an empty name selects no Service"),
        ("service-proxy-name", "a,b=c", "--service-proxy-name: 'a,b=c' is not the value of a label"),
        ("service-proxy-name", "a" * 64, f"--service-proxy-name: '{'a' * 64}' is not the value of a label"),
        ("context", "dev", "--context: 'dev' can be found only in a kubeconfig, and none is given"),
        ("metrics-port", "0", "--metrics-port: '' is not an IP address"),
        ("healthz-port", "70000", "--healthz-port: '70000' is not a port from 0 to 65535"),
        ("cleanup", "maybe", "--cleanup: 'maybe' is not true or false"),
        ("feature-gates", ["A"], "--feature-gates: 'A' is not a pair such as Gate=true"),
        ("vmodule", ["a=b"], "--vmodule: 'b' is not a whole number"),
        ("kube-api-qps", "nan", "--kube-api-qps: 'nan' is not a number"),
        ("oom-score-adj", "1_0", "--oom-score-adj: '1_0' is not a whole number"),
        ("conntrack-min", "3000000000", "--conntrack-min: 3000000000 is too large"),
    ],
)
def test_wrong_flags(flag: str, value: str | Sequence[str], sentence: str) -> None:
    (mistake,) = mistakes({flag: value})
    assert mistake.startswith(sentence)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_portal_rules_cannot_lead_to_loopback(address: str) -> None:
    given = {"bind-address": address}
    (mistake,) = mistakes(given | {"portals": "iptables"})
    assert mistake.startswith(f"--bind-address: {address} cannot be the target of portal rules")
    assert load(given | {"portals": "none"}).settings.bind_address == address


def test_an_ipv6_bind_address_brings_ipv6_servers() -> None:
    settings = load({"bind-address": "fd00::1"}).settings
    assert (str(settings.healthz_bind_address), str(settings.metrics_bind_address)) == ("[::]:10256", "[::1]:10249")
    settings = load({"bind-address": "::", "healthz-port": "99", "metrics-bind-address": "10.0.0.1"}).settings
    assert (str(settings.healthz_bind_address), str(settings.metrics_bind_address)) == ("[::]:99", "10.0.0.1:10249")


def test_only_a_udp_timeout_that_is_written_counts(tmp_path: Path) -> None:
    for text, expected in (("", None), ("udpIdleTimeout: 0s", None), ("udpIdleTimeout: 250ms", 0.25)):
        assert load({"config": config(tmp_path, text)}).settings.udp_timeout == expected


def test_all_mistakes_of_flags_and_file_at_once(tmp_path: Path) -> None:
    file = config(tmp_path, "oomScoreAdj: low\nmode: x\niptables: {syncPeriod: 1s, minSyncPeriod: 2s}\n")
    assert mistakes({"config": file, "drain-timeout": "x", "hostname-override": " ", "oom-score-adj": "y"}) == [
        f"{file}: oomScoreAdj: 'low' is not a whole number",
        "--drain-timeout: 'x' is not a duration such as 250ms, 2s or 1m30s",
        f"{file}: iptables.syncPeriod: 1s is shorter than the least time between two syncs (2s)",
        f"{file}: mode: 'x' is not one of userspace, iptables, nftables, ipvs",
        "--hostname-override: ' ' is nothing but blanks",
    ]


def test_broken_files(tmp_path: Path) -> None:
    assert mistakes({"config": "/no/file"}) == ["--config: /no/file: no such file or directory"]
    assert mistakes({"config": str(tmp_path)}) == [f"--config: {tmp_path}: is a directory"]
    (tmp_path / "c").write_text("a: [")
    (mistake,) = mistakes({"config": str(tmp_path / "c")})
    assert mistake.startswith(f"{tmp_path}/c: line 2: ")


def test_what_kubeadm_writes_starts_without_a_word() -> None:
    loaded = load({"config": KUBEADM, "hostname-override": "Node-1"})
    assert loaded.notices == ()
    expected = Settings(
        config_file=Path(KUBEADM),
        kubeconfig=Path("/var/lib/kube-proxy/kubeconfig.conf"),
        cluster_cidr=("10.244.0.0/16",),
        hostname_override="node-1",
        configuration=loaded.settings.configuration,
    )
    assert loaded.settings == expected


def test_beside_a_file_only_some_flags_count(tmp_path: Path) -> None:
    file = config(tmp_path, "hostnameOverride: a\nlogging: {verbosity: 1}\nbindAddress: 10.0.0.1\n")
    given = {"config": file, "hostname-override": "b", "v": "3", "master": "https://m", "manifests": ["/m"]}
    counted = load(given)
    assert counted.notices == ()
    settings = counted.settings
    assert (settings.hostname_override, settings.verbosity, settings.master) == ("b", 3, "https://m")
    assert settings.manifests == (Path("/m"),)
    ignored = {"bind-address": "bad", "kubeconfig": "/k", "healthz-port": "0", "proxy-mode": "ipvs"}
    loaded = load(given | ignored)
    assert loaded.settings == settings
    (notice,) = loaded.notices
    flags = ["--bind-address", "--kubeconfig", "--healthz-port", "--proxy-mode"]
    assert notice == Notice("Flags are ignored beside --config", {"flags": flags})


def test_unknown_and_duplicate_fields_are_warned_of(tmp_path: Path) -> None:
    file = config(tmp_path, "new: 1\niptables: {syncPeriod: 1s, syncPeriod: 2s, x: 1}\n")
    assert notices({"config": file}) == [
        ("Unknown fields of the configuration are ignored", ["new", "iptables.x"]),
        ("Of fields given twice the last counts", ["iptables.syncPeriod"]),
    ]
    assert load({"config": file}).settings.sync_period == 2.0


def test_what_has_no_effect_is_named_once(tmp_path: Path) -> None:
    file = config(
        tmp_path,
        "ipvs: {scheduler: rr, syncPeriod: 1m}\niptables: {masqueradeBit: 3}\nclientConnection: {qps: 5, burst: 7}\n",
    )
    text = "Settings without effect in userproxy"
    assert notices({"config": file}) == [
        (text, ["clientConnection.burst", "iptables.masqueradeBit", "ipvs.syncPeriod", "ipvs.scheduler"])
    ]
    assert notices({"masquerade-all": "true", "iptables-sync-period": "1m"}) == [(text, ["--masquerade-all"])]
    gates = {"feature-gates": ["AllowServiceExternalIPs=false,A=true,B=false"], "masquerade-all": "true"}
    assert notices(gates) == [(text, ["--masquerade-all", "featureGates.A", "featureGates.B"])]
    assert notices({"masquerade-all": "false", "kube-api-qps": "5", "oom-score-adj": "3"}) == []


def test_what_recognises_local_traffic_counts_in_its_mode() -> None:
    flags = {
        "cluster-cidr": ("10.0.0.0/8", "ClusterCIDR"),
        "pod-bridge-interface": ("cbr0", "BridgeInterface"),
        "pod-interface-name-prefix": ("veth", "InterfaceNamePrefix"),
    }
    given = {name: value for name, (value, _) in flags.items()}
    for counts, (_, mode) in flags.items():
        (notice,) = load(given | {"detect-local-mode": mode}).notices
        assert set(notice.fields["settings"]) == {f"--{name}" for name in flags if name != counts}
    settings = load(given).settings
    assert (settings.bridge_interface, settings.interface_name_prefix) == ("cbr0", "veth")


def test_what_decides_where_packets_go_has_an_effect() -> None:
    given: Given = {
        "nodeport-addresses": ["10.0.0.0/8"],
        "udp-timeout": "1s",
        "detect-local-mode": "NodeCIDR",
        "iptables-localhost-nodeports": "false",
        "feature-gates": ["AllowServiceExternalIPs=false"],
    }
    assert load(given).notices == ()


@pytest.mark.parametrize("mode", ["iptables", "nftables", "ipvs"])
def test_every_mode_means_userspace(mode: str, tmp_path: Path) -> None:
    (notice,) = load({"proxy-mode": mode}).notices
    assert notice == Notice("The proxy mode is userspace", {"asked": mode}, is_warning=False)
    periods = f"mode: {mode}\n{mode}: {{syncPeriod: 7s, minSyncPeriod: 2s}}\n"
    settings = load({"config": config(tmp_path, periods)}).settings
    assert (settings.sync_period, settings.min_sync_period) == (7.0, 2.0)
    assert load({"proxy-mode": "userspace"}).notices == load({"proxy-mode": ""}).notices == ()


def test_ports_of_deprecated_flags_leave_a_port_that_is_given() -> None:
    settings = load({"healthz-port": "99", "healthz-bind-address": "10.0.0.1:5", "metrics-bind-address": "10.0.0.1",
                     "metrics-port": "98"}).settings  # fmt: skip
    assert (str(settings.healthz_bind_address), str(settings.metrics_bind_address)) == ("10.0.0.1:5", "10.0.0.1:98")


def test_configz_is_the_effective_configuration() -> None:
    given = {"healthz-bind-address": "10.0.0.1", "v": "2", "nodeport-addresses": ["primary"]}
    effective = configz(load(given).settings)
    assert effective["healthzBindAddress"] == "10.0.0.1:10256"
    assert effective["logging"]["verbosity"] == 2
    assert effective["nodePortAddresses"] == ["primary"]
    assert effective["kind"] == "KubeProxyConfiguration"


@pytest.mark.parametrize(
    "given", [{"manifests": ["/m"]}, {"kubeconfig": "/k"}, {"master": "https://m"}, {"config": KUBEADM}]
)
def test_a_source_is_needed(given: Given) -> None:
    require_source(load(given).settings, {})
    require_source(load({}).settings, {"KUBERNETES_SERVICE_HOST": "10.96.0.1"})
    with pytest.raises(UsageError, match=r"give --manifests PATH, or --kubeconfig FILE for an API server, or run in a"):
        require_source(load({}).settings, {})
