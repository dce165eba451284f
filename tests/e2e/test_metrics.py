"""Metrics of a running userproxy: they say what its clients and Pods saw, and Prometheus can make use of them."""

import signal
import subprocess
import time
from contextlib import ExitStack
from shutil import which

import pytest

from tests.examples.monitoring import queries
from tests.examples.promql import faults as faults_of_query
from tests.lab.cluster import QUICK, Lab
from tests.lab.counting import COUNTING_SERVER, counted, exchange_all
from tests.lab.datagrams import ask as ask_datagram
from tests.lab.manifests import Backend, Port
from tests.lab.probes import KeptConnection
from tests.lab.proxy import CONTROL
from tests.telemetry.exposition import faults, parsed, samples, value
from userproxy.demo.traffic import fetch_many, http
from userproxy.demo.waiting import eventually

pytestmark = pytest.mark.e2e

CLUSTER_IP = ("10.96.0.10", 80)
DNS = ("10.96.0.53", 53)
METRICS = ("127.0.0.1", 10249)
CONNECTIONS = 1_000


def text_of(lab: Lab) -> str:
    return http(lab.node, METRICS, "/metrics").decode()


def test_figures_are_what_the_pods_and_the_clients_counted(lab: Lab) -> None:
    for pod in lab.pods[:2]:
        pod.serve_python(COUNTING_SERVER)
    lab.manifests.service("web", ports=[Port(80, "http")], cluster_ip=CLUSTER_IP[0])
    lab.manifests.slice("web", lab.pods, ports=[Port(80, "http")])
    lab.node.start_userproxy(*QUICK)
    lab.settle()
    sizes = [100 + number for number in range(CONNECTIONS)]
    assert exchange_all(lab.client, [CLUSTER_IP], sizes) == [3 * size for size in sizes]
    web = {"namespace": "default", "service": "web", "port": "http", "protocol": "TCP"}
    eventually(lambda: value(text_of(lab), "userproxy_connections_active", **web) == 0, 30, "all have ended")
    text = text_of(lab)

    def figure(name: str, **labels: str) -> float:
        return value(text, f"userproxy_{name}", **web, **labels)

    pods = [counted(lab.client, pod) for pod in lab.pods[:2]]
    assert sum(each.connections for each in pods) == CONNECTIONS
    assert figure("connections_opened_total") == CONNECTIONS
    assert figure("connection_duration_seconds_count") == CONNECTIONS
    assert figure("dial_seconds_count") == CONNECTIONS
    assert figure("bytes_total", direction="up") == sum(each.up for each in pods) == sum(sizes)
    assert figure("bytes_total", direction="down") == sum(each.down for each in pods) == 3 * sum(sizes)
    assert figure("connections_failed_total") == figure("connections_refused_total") == 0
    assert figure("connections_retried_total") == figure("dial_failures_total", reason="refused") >= 1
    assert figure("dial_failures_total") == figure("dial_failures_total", reason="refused")
    assert figure("endpoints") == 3
    assert faults(text) == []


def serve_everything(lab: Lab) -> None:
    """HTTP and DNS, with clients who were served, who were not, and one who sticks to its endpoint."""
    lab.serve_http()
    lab.manifests.service("web", ports=[Port(80, "http")], cluster_ip=CLUSTER_IP[0], affinity=60)
    lab.manifests.slice("web", lab.pods, ports=[Port(80, "http")])
    lab.manifests.service("dns", ports=[Port(53, "dns", "UDP")], cluster_ip=DNS[0])
    lab.manifests.slice("dns", lab.pods, ports=[Port(53, "dns", "UDP")])
    lab.manifests.service("dead", ports=[Port(80, "http")], cluster_ip="10.96.0.66")
    lab.manifests.slice("dead", lab.pods, ports=[Port(80, "http", target=9)])
    lab.node.start_userproxy(*QUICK)
    lab.settle()
    assert not fetch_many(lab.client, CLUSTER_IP, 20).failures
    assert ask_datagram(lab.client, DNS).pod
    assert fetch_many(lab.client, ("10.96.0.66", 80), 3).failures


def test_every_query_of_the_dashboard_and_the_alerts_finds_what_it_asks_for(lab: Lab) -> None:
    serve_everything(lab)
    text = text_of(lab)
    families = parsed(text)
    assert faults(text) == []
    asked = list(queries())
    assert len(asked) > 50
    assert [(place, fault) for place, query in asked for fault in faults_of_query(query, families)] == []
    assert value(text, "userproxy_affinity_entries", service="web") == 1
    assert value(text, "userproxy_datagrams_total", service="dns", direction="up") == 1
    assert value(text, "userproxy_datagrams_total", service="dns", direction="down") == 1
    assert value(text, "userproxy_connections_failed_total", service="dead") == 3
    assert value(text, "userproxy_dial_failures_total", service="dead", reason="refused") == 3 * 4, "four dials each"
    assert value(text, "userproxy_endpoints", service="dead", state="passed-over") == 3
    assert value(text, "userproxy_descriptors") < value(text, "userproxy_descriptors_limit")
    assert value(text, "userproxy_process_connections", protocol="UDP") == 1
    with ExitStack() as open_ones:
        open_ones.enter_context(lab.client.connect(CLUSTER_IP))
        eventually(lambda: value(text_of(lab), "userproxy_connections_active", service="web") == 1, 30, "one is active")
    names = {name for name, _ in samples(text)}
    assert not {name for name in names if name.startswith("userproxy_") and name.endswith("_created")}
    assert lab.client.address not in text, "never per client"
    assert not [pod.name for pod in lab.pods if pod.address in text]


def test_a_loop_that_was_held_up_lags(lab: Lab) -> None:
    proxy = lab.node.start_userproxy()
    eventually(lambda: lab.node.listening_ports() >= {METRICS[1]}, 30, "the metrics port")
    assert value(text_of(lab), "userproxy_loop_lag_seconds", process=CONTROL) < 1.0
    proxy.signal(signal.SIGSTOP)
    time.sleep(1.5)
    proxy.signal(signal.SIGCONT)
    eventually(lambda: value(text_of(lab), "userproxy_loop_lag_seconds", process=CONTROL) >= 1.0, 5, "it is shown")


@pytest.mark.skipif(which("promtool") is None, reason="promtool is missing: it is in Debian's package prometheus")
def test_promtool_has_nothing_against_our_own_metrics(lab: Lab) -> None:
    serve_everything(lab)
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text_of(lab), capture_output=True, text=True, check=False
    )
    complaints = (done.stdout + done.stderr).splitlines()
    assert [line for line in complaints if not line.startswith(("kubeproxy_", "kubernetes_"))] == []


def test_a_deleted_service_makes_no_counter_go_back_and_the_rest_is_summed_up(lab: Lab) -> None:
    lab.serve_http()
    paths = {}
    for number in range(4):
        name = f"web-{number}"
        paths[name] = lab.manifests.service(name, ports=[Port(80, "http")], cluster_ip=f"10.96.1.{number}")
        lab.manifests.slice(name, [Backend(pod) for pod in lab.pods], ports=[Port(80, "http")])
    lab.node.start_userproxy(*QUICK, "--metrics-services", "2")
    for number in range(4):
        lab.node.wait_for_portal(f"10.96.1.{number}", 80)
    for number in (1, 3, 2):
        assert not fetch_many(lab.client, (f"10.96.1.{number}", 80), 10).failures
        text = text_of(lab)
    before = samples(text)
    opened = "userproxy_connections_opened_total"
    assert {dict(key[1])["service"]: count for key, count in before.items() if key[0] == opened and count} == {
        "web-1": 10,
        "web-3": 10,
        "_rest": 10,
    }
    assert value(text, "userproxy_service_ports", series="rest") == 2
    with KeptConnection(lab.client, ("10.96.1.1", 80)) as kept:
        kept.ask()
        lab.manifests.remove(paths["web-1"])
        lab.node.wait_for_no_portal("10.96.1.1", 80)
        eventually(lambda: value(text_of(lab), "userproxy_listeners") == 3, 30, "the listener is closed")
        halfway = text_of(lab)
        kept.ask()
        text = text_of(lab)
        assert value(text, opened, service="web-1") == 11, "one that was opened since the last scrape"
        assert value(text, "userproxy_connections_active", service="web-1") == 1
        assert value(text, "userproxy_endpoints", service="web-1", state="draining") == 1
        sent = "userproxy_bytes_total", "web-1"
        assert value(text, sent[0], service=sent[1]) > value(halfway, sent[0], service=sent[1])
    eventually(lambda: value(text_of(lab), "userproxy_connections_active", service="web-1") == 0, 30, "it has ended")
    text = text_of(lab)
    after = samples(text)
    counters = {f"{family.name}_total" for family in parsed(text).values() if family.type == "counter"}
    assert not [key for key, was in before.items() if key[0] in counters and after.get(key, -1) < was]
    assert value(text, opened, service="web-1") == 11
    assert value(text, opened, service="_rest") == 10
