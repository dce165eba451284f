"""``userproxy explain`` against an admin server: what it asks, what it prints, and how it ends."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from msgspec import structs

from tests.admin.planes import DNS, ONE, TWO, WEB, Served
from tests.cli.served import Running, running
from userproxy.addresses import IPFamily
from userproxy.model import ListenerName, Portal, PortalKind, ProxyProtocol
from userproxy.model.reports import Choice, EndpointFigures, ListenerFigures, Source
from userproxy.model.snapshots import TrafficClass, Verdict
from userproxy.proxier.inspect.explanation import Explanation
from userproxy.proxier.inspect.reports import EndpointReport

SERVED = Explanation(
    WEB,
    IPFamily.IPV4,
    "iptables",
    Portal(PortalKind.CLUSTER_IP, "10.96.0.10", 80),
    TrafficClass.INTERNAL,
    "internalTrafficPolicy: Cluster",
    False,
    Verdict.SERVE,
    "1 of 2 endpoints may serve",
    ListenerName(WEB),
    (
        EndpointReport(ONE, "node-1", "a", ready=True, serving=True, terminating=False, usable=True, reason=""),
        EndpointReport(
            TWO, None, None, ready=False, serving=False, terminating=False, usable=False, reason="not ready"
        ),
    ),
)
CHOICE = Choice(ONE, "it is its turn", Source.CLIENT, "10.2.0.9", "the client is a Pod of this node")
DROPPED = structs.replace(
    SERVED,
    portal=Portal(PortalKind.NODE_PORT, "", 30080),
    traffic=TrafficClass.EXTERNAL,
    policy="externalTrafficPolicy: Local",
    is_local=True,
    verdict=Verdict.DROP,
    reason="no endpoint of this node may serve, and policy Local allows no other",
    listener=None,
    endpoints=(),
)


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path) as found:

        def fill(api: Served) -> None:
            api.control.add(WEB, ONE, TWO)
            api.control.add(DNS, ip="10.96.0.53", port=53)
            api.control.explanations = [SERVED]
            api.data.choices = {ListenerName(WEB): CHOICE}

        found.tell(fill)
        yield found


TEXT = """\
Service:  default/web:http (TCP)
Client:   10.2.0.9
Portal:   10.96.0.10:80 (ClusterIP, iptables)
Policy:   internalTrafficPolicy: Cluster: endpoints of the cluster
Verdict:  serve: 1 of 2 endpoints may serve
Next:     10.1.0.1:8080, because it is its turn
Source:   10.2.0.9 (the client's), because the client is a Pod of this node
Endpoints:
  ENDPOINT        NODE     READY   USABLE   REASON
  10.1.0.1:8080   node-1   true    true     <none>
  10.1.0.2:8080   -        false   false    not ready
"""


def test_text(proxy: Running) -> None:
    done = proxy.run("explain", "default/web", "--from", "10.2.0.9")
    assert (done.stdout, done.exit_code) == (TEXT, 0)


def test_json_and_yaml(proxy: Running) -> None:
    found = json.loads(proxy.run("explain", "default/web:http", "--from", "10.2.0.9", "-o", "json").stdout)
    assert list(found) == [
        "service", "port", "protocol", "client", "portal", "kind", "driver", "traffic", "policy", "list", "verdict",
        "reason", "next", "next_reason", "endpoints", "source", "source_address", "source_reason",
        "header", "alternatives",
    ]  # fmt: skip
    assert (found["verdict"], found["next"]) == ("serve", "10.1.0.1:8080")
    seen = (found["source"], found["source_address"], found["source_reason"])
    assert seen == ("client", "10.2.0.9", "the client is a Pod of this node")
    assert yaml.safe_load(proxy.run("explain", "default/web:80", "--from", "10.2.0.9", "-o", "yaml").stdout) == found


def test_a_trusted_proxy_is_told_to_begin_with_a_header(proxy: Running) -> None:
    def fill(api: Served) -> None:
        api.data.choices = {ListenerName(WEB): structs.replace(CHOICE, header=ProxyProtocol.V2)}

    proxy.tell(fill)
    lines = proxy.run("explain", "default/web", "--from", "10.2.0.9").stdout.splitlines()
    assert lines[7] == "Header:   v2: a trusted proxy begins with a PROXY header, and its client is whom that names"
    shown = proxy.run("explain", "default/web", "--from", "10.2.0.9", "-o", "json").stdout
    assert json.loads(shown)["header"] == "v2"


def test_nobody_is_next_for_whom_is_dropped(proxy: Running) -> None:
    proxy.tell(lambda api: api.control.explanations.insert(0, DROPPED))
    done = proxy.run("explain", "default/web", "--from", "192.0.2.7")
    assert done.stdout.splitlines()[1:] == [
        "Client:   192.0.2.7, from elsewhere",
        "Portal:   0.0.0.0:30080 (NodePort, iptables)",
        "Policy:   externalTrafficPolicy: Local: endpoints of this node",
        "Verdict:  drop: no endpoint of this node may serve, and policy Local allows no other",
        "Next:     <none>",
        "Endpoints: <none>",
    ]


def test_an_endpoint_that_is_passed_over_says_so(proxy: Running) -> None:
    figures = (EndpointFigures(ONE, passed_over_seconds=3.25),)
    listener = ListenerFigures(ListenerName(WEB), Verdict.SERVE, 40000, endpoints=figures)
    proxy.tell(lambda api: setattr(api.data, "figures", (listener,)))
    done = proxy.run("explain", "default/web", "--from", "10.2.0.9")
    assert "10.1.0.1:8080   node-1   true    true     passed over for 3.2 s after a failed dial" in done.stdout


def test_a_listener_that_has_no_endpoint_left_serves_nobody(proxy: Running) -> None:
    proxy.tell(lambda api: api.data.choices.update({ListenerName(WEB): Choice(None, "there is no endpoint")}))
    done = proxy.run("explain", "default/web", "--from", "10.2.0.9")
    assert "Verdict:  reject: there is no endpoint\nNext:     <none>" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["default/web"], 2, "Missing option '--from'"),
        (["web", "--from", "10.2.0.9"], 2, "say which namespace"),
        (["default/web", "--from", "web-1"], 2, "--from: 'web-1' is not an IP address"),
        (["default/web", "--from", "10.2.0.9", "--to", "x:1"], 2, "--to: 'x' is not an IP address"),
        (["default/nil", "--from", "10.2.0.9"], 1, "no Service default/nil is served here"),
        (["default/web:81", "--from", "10.2.0.9"], 1, "default/web has no port 81, but http (TCP)"),
        (
            ["default/web", "--from", "10.2.0.9", "--to", "10.9.9.9"],
            1,
            "10.9.9.9 is no portal of default/web, which has",
        ),
        (["default/web", "--from", "10.2.0.9", "--to", "[fd00::1]:80"], 1, "cannot reach fd00::1, of another"),
        (["default/web", "--from", "fd00::9"], 1, "over IPv6"),
    ],
)
def test_one_sentence_says_what_is_wrong(proxy: Running, arguments: list[str], code: int, sentence: str) -> None:
    if sentence == "over IPv6":
        proxy.tell(lambda api: api.control.explanations.clear())
    done = proxy.run("explain", *arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_which_of_several_ports_is_meant_has_to_be_said(proxy: Running) -> None:
    other = structs.replace(WEB, port="https")

    def add(api: Served) -> None:
        api.control.add(other, ONE)
        api.control.explanations.append(structs.replace(SERVED, name=other))

    proxy.tell(add)
    done = proxy.run("explain", "default/web", "--from", "10.2.0.9")
    assert (done.exit_code, "say which port of default/web is meant: http (TCP), https (TCP)" in done.stderr) == (
        1,
        True,
    )
    assert proxy.run("explain", "default/web:http", "--from", "10.2.0.9").exit_code == 0
