"""userproxy on a node of a cluster: what it makes of an API server, good and bad days alike."""

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab.apiserver import node
from tests.lab.cluster import Lab
from tests.lab.manifests import Port
from tests.lab.proxy import RunningProxy
from userproxy.demo.hosts import Host
from userproxy.demo.traffic import fetch, fetch_many, http
from userproxy.demo.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.parametrize("lab", ["api"], indirect=True)]

CLUSTER_IP = ("10.96.0.10", 80)
HEALTH = ("127.0.0.1", 10256)
METRICS = ("127.0.0.1", 10249)


def serve_web(lab: Lab, *flags: str) -> RunningProxy:
    lab.serve_http()
    lab.manifests.service("web", ports=[Port(80, "http")], cluster_ip=CLUSTER_IP[0], node_port=30080)
    lab.manifests.slice("web", lab.pods, ports=[Port(80, "http")])
    proxy = lab.node.start_userproxy("--hostname-override", "node-1", *flags)
    lab.node.wait_for_rules("default/web:http")
    return proxy


def status(host: Host, address: tuple[str, int], path: str) -> int:
    try:
        http(host, address, path)
    except OSError as error:
        return int(str(error).rsplit(" ", 1)[-1])
    return 200


def while_asking(lab: Lab, act: Callable[[], Any]) -> tuple[int, tuple[str, ...]]:
    """Do something while clients ask without a pause; how many were answered, and the failures."""
    done = threading.Event()
    answered = 0
    failures: list[str] = []

    def ask() -> None:
        nonlocal answered
        while not done.is_set():
            tally = fetch_many(lab.client, CLUSTER_IP, 20)
            answered += len(tally.seconds)
            failures.extend(tally.failures)

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        act()
    finally:
        done.set()
        asker.join()
    return answered, tuple(failures)


def test_while_the_api_server_is_away_the_last_state_serves(lab: Lab) -> None:
    proxy = serve_web(lab)

    def restart() -> None:
        lab.api.stop()
        proxy.wait_log("connection refused")
        lab.api.start()
        lab.manifests.service("late", ports=[Port(80, "http")], cluster_ip="10.96.0.20")
        lab.node.wait_for_rules("default/late:http")

    answered, failures = while_asking(lab, restart)
    assert failures == ()
    assert answered > 50
    warnings = [record for record in proxy.records if record["level"] == "warning"]
    assert sum("connection refused" in record["event"] for record in warnings) == 1


def test_a_forbidden_resource_is_one_message_and_nothing_is_programmed_by_halves(lab: Lab) -> None:
    lab.api.forbid("endpointslices")
    lab.manifests.service("web", ports=[Port(80, "http")], cluster_ip=CLUSTER_IP[0])
    proxy = lab.node.start_userproxy()
    record = proxy.wait_log("forbids to list endpointslices (403)")
    assert "RBAC" in record["event"]
    assert sum("403" in each["event"] for each in proxy.records) == 1
    assert "KUBE-" not in lab.node.run(["iptables-save"]).stdout
    lab.api.allow("endpointslices")
    lab.node.wait_for_rules("default/web:http")


def test_health_follows_the_node(lab: Lab) -> None:
    proxy = serve_web(lab)
    assert status(lab.node, HEALTH, "/livez") == 200
    assert status(lab.node, HEALTH, "/healthz") == 503  # our own Node was never seen
    lab.api.put(node("node-1", address=lab.node.address))
    eventually(lambda: status(lab.node, HEALTH, "/healthz") == 200, 30, "the node is eligible")
    body = json.loads(http(lab.node, HEALTH, "/healthz"))
    assert (body["nodeEligible"], body["healthy"]) == (True, True)
    doomed = node("node-1", address=lab.node.address)
    doomed["spec"]["taints"] = [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]
    lab.api.put(doomed)
    eventually(lambda: status(lab.node, HEALTH, "/healthz") == 503, 30, "the node is about to go")
    assert status(lab.outside, (lab.node.address, 10256), "/livez") == 200
    assert proxy.running


def test_metrics_and_what_else_the_port_tells(lab: Lab) -> None:
    serve_web(lab, "--iptables-sync-period", "17s")

    def text() -> str:
        return http(lab.node, METRICS, "/metrics").decode()

    # The rules stand a moment before they are counted; and both families have counted the Service.
    for sample in (
        'kubeproxy_sync_proxy_rules_iptables_total{ip_family="IPv4",table="nat"} 4.0',
        "kubeproxy_sync_proxy_rules_service_changes_total 2.0",
        "kubeproxy_sync_proxy_rules_endpoint_changes_total 1.0",
        "kubeproxy_sync_proxy_rules_service_changes_pending 0.0",
    ):
        eventually(lambda: sample in text(), 30, sample)  # noqa: B023 -- used at once
    assert 'kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"}' in text()
    assert http(lab.node, METRICS, "/proxyMode") == b"userspace"
    assert http(lab.node, METRICS, "/healthz") == b"ok"
    configuration = json.loads(http(lab.node, METRICS, "/configz"))["kubeproxy.config.k8s.io"]
    assert configuration["iptables"]["syncPeriod"] == "17s"
    with pytest.raises(ConnectionRefusedError):
        http(lab.outside, (lab.node.address, METRICS[1]), "/metrics")


def test_conflicts_and_unserved_ports_become_events(lab: Lab) -> None:
    serve_web(lab)
    lab.manifests.service(
        "late", ports=[Port(80, "http")], cluster_ip="10.96.0.20", node_port=30080, created="2027-01-01T00:00:00Z"
    )
    lab.manifests.service("calls", ports=[Port(5060, "sip", "SCTP")], cluster_ip="10.96.0.53")

    def events() -> dict[str, dict[str, Any]]:
        found = [body for (kind, _, _), body in lab.api.objects.items() if kind == "Event"]
        return {event["reason"]: event for event in found}

    eventually(lambda: {"Starting", "PortConflict", "UnsupportedProtocol"} <= events().keys(), 30, "the events")
    conflict = events()["PortConflict"]
    assert conflict["regarding"]["kind"] == "Service"
    late = lab.api.objects["Service", "default", "late"]
    assert conflict["regarding"]["uid"] == late["metadata"]["uid"], "else `kubectl describe service` leaves it out"
    assert (conflict["regarding"]["namespace"], conflict["metadata"]["namespace"]) == ("default", "default")
    assert "30080" in conflict["note"]
    assert events()["UnsupportedProtocol"]["regarding"]["name"] == "calls"


def test_a_service_labelled_for_us_alone(lab: Lab) -> None:
    lab.serve_http()
    ours = {"service.kubernetes.io/service-proxy-name": "userproxy"}
    lab.manifests.service("mine", ports=[Port(80, "http")], cluster_ip=CLUSTER_IP[0], labels=ours)
    lab.manifests.service("theirs", ports=[Port(80, "http")], cluster_ip="10.96.0.11")
    lab.manifests.slice("mine", lab.pods, ports=[Port(80, "http")])
    lab.node.start_userproxy("--service-proxy-name", "userproxy")
    rules = lab.node.wait_for_rules("default/mine:http")
    assert not [rule for rule in rules if "theirs" in rule]
    assert fetch(lab.client, CLUSTER_IP).pod


def test_a_wrong_kubeconfig_stops_the_start(lab: Lab) -> None:
    broken = lab.manifests.directory / "broken"
    broken.write_text("apiVersion: v1\nkind: Config\ncurrent-context: nowhere\n")
    for flags in (("--kubeconfig", "/does/not/exist"), ("--kubeconfig", str(broken))):
        done = lab.node.userproxy("run", *flags, check=False)
        assert done.returncode == 2
        assert flags[1] in done.stderr
        assert "Traceback" not in done.stderr
