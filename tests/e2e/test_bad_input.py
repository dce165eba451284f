"""Malformed manifests beside a good one: each is named in one sentence, and the good one is served."""

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.manifests import Port
from userproxy.demo.hosts import Address
from userproxy.demo.traffic import fetch, fetch_many
from userproxy.demo.waiting import eventually

pytestmark = pytest.mark.e2e

SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {clusterIP: 10.96.9.9, clusterIPs: [10.96.9.9]"
SLICE = (
    "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"
    "metadata: {name: bad-1, labels: {kubernetes.io/service-name: bad}}\n"
)

BROKEN = {
    "syntax": ("apiVersion: v1\nkind: [", ["line 3"]),
    "tab": ("a:\n\tb: 1\n", ["line 2"]),
    "scalar": ("just words", ["text is not a Kubernetes object"]),
    "no-kind": ("apiVersion: v1\nmetadata: {name: bad}\n", ["kind", "missing"]),
    "twice": ("kind: Service\nkind: Service\n", ["kind", "twice"]),
    "port-range": (f"{SERVICE}, ports: [{{port: 70000}}]}}\n", ["spec.ports[0].port", "70000", "1..65535"]),
    "port-zero": (f"{SERVICE}, ports: [{{port: 0}}]}}\n", ["spec.ports[0].port", "0 is not a port"]),
    "port-text": (f"{SERVICE}, ports: [{{port: http}}]}}\n", ["spec.ports[0].port", '"http"', "whole number"]),
    "port-bool": (f"{SERVICE}, ports: [{{port: true}}]}}\n", ["spec.ports[0].port", "true"]),
    "port-none": (f"{SERVICE}, ports: [{{name: http}}]}}\n", ["spec.ports[0].port", "missing"]),
    "ports-map": (f"{SERVICE}, ports: {{port: 80}}}}\n", ["spec.ports", "list"]),
    "no-ports": (f"{SERVICE}}}\n", ["spec.ports", "missing"]),
    "unnamed": (f"{SERVICE}, ports: [{{port: 80}}, {{port: 81}}]}}\n", ["spec.ports[0].name", "missing"]),
    "same-name": (
        f"{SERVICE}, ports: [{{name: a, port: 80}}, {{name: a, port: 81}}]}}\n",
        ["spec.ports[1].name", '"a"', "spec.ports[0]"],
    ),
    "protocol": (f"{SERVICE}, ports: [{{port: 80, protocol: tcp}}]}}\n", ["spec.ports[0].protocol", '"tcp"', "TCP"]),
    "node-port": (f"{SERVICE}, ports: [{{port: 80, nodePort: 99999}}]}}\n", ["spec.ports[0].nodePort", "99999"]),
    "cluster-ip": (
        "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {clusterIP: 10.96.9, ports: [{port: 80}]}\n",
        ["spec.clusterIP", '"10.96.9"', "not an IP address"],
    ),
    "affinity": (
        f"{SERVICE}, sessionAffinity: Cookie, ports: [{{port: 80}}]}}\n",
        ["spec.sessionAffinity", '"Cookie"', "ClientIP"],
    ),
    "affinity-time": (
        f"{SERVICE}, sessionAffinity: ClientIP, sessionAffinityConfig: {{clientIP: {{timeoutSeconds: 0}}}},"
        " ports: [{port: 80}]}\n",
        ["timeoutSeconds", "0 is not", "86400"],
    ),
    "type": (f"{SERVICE}, type: Gateway, ports: [{{port: 80}}]}}\n", ["spec.type", '"Gateway"']),
    "name": (
        "apiVersion: v1\nkind: Service\nmetadata: {name: Bad_Name}\nspec: {ports: [{port: 80}]}\n",
        ["metadata.name", '"Bad_Name"'],
    ),
    "no-name": ("apiVersion: v1\nkind: Service\nmetadata: {}\nspec: {ports: [{port: 80}]}\n", ["metadata.name"]),
    "version": ("apiVersion: v2\nkind: Service\nmetadata: {name: bad}\n", ["apiVersion", '"v2"', "v1"]),
    "slice-owner": (
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: bad-1}\naddressType: IPv4\n",
        ["kubernetes.io/service-name", "missing"],
    ),
    "slice-address": (
        f"{SLICE}addressType: IPv4\nendpoints: [{{addresses: [10.0.0.300]}}]\n",
        ["endpoints[0].addresses[0]", '"10.0.0.300"'],
    ),
    "slice-family": (
        f"{SLICE.replace('bad-1', 'bad-2')}addressType: IPv6\nendpoints: [{{addresses: [10.0.0.3]}}]\n",
        ["endpoints[0].addresses[0]", '"10.0.0.3"', "IPv6"],
    ),
    "slice-type": (f"{SLICE}addressType: IP\n", ["addressType", '"IP"']),
    "slice-port": (f"{SLICE}addressType: IPv4\nports: [{{port: -1}}]\n", ["ports[0].port", "-1"]),
    "list-items": ("apiVersion: v1\nkind: List\nitems: {}\n", ["items", "list"]),
}


def test_each_malformed_manifest_is_named_and_its_neighbours_are_served(lab: Lab) -> None:
    lab.serve_http()
    for name, (text, _) in BROKEN.items():
        # A good Service before and after the broken document, except where the text itself does not parse.
        lab.manifests.write_text(f"bad-{name}.yaml", text)
    lab.manifests.service("web", ports=[Port(80, "http")], cluster_ip="10.96.0.10")
    lab.manifests.slice("web", lab.pods, ports=[Port(80, "http")])
    mixed = (
        f"{SERVICE}, ports: [{{port: 70001}}]}}\n---\n"
        + (lab.manifests.directory / "service-default-web.yaml").read_text()
    )
    lab.manifests.write_text(
        "mixed.yaml", mixed.replace("name: web", "name: mixed").replace("10.96.0.10", "10.96.0.11")
    )
    lab.manifests.slice("mixed", lab.pods, ports=[Port(80, "http")])
    proxy = lab.node.start_userproxy()
    lab.node.wait_for_rules("default/mixed:http")
    errors = [record["event"] for record in proxy.records if record["level"] == "error"]
    for name, (_, fragments) in BROKEN.items():
        (sentence,) = [error for error in errors if f"bad-{name}.yaml" in error]
        assert all(fragment in sentence for fragment in fragments), (fragments, sentence)
    (sentence,) = [error for error in errors if "mixed.yaml" in error]
    assert "document 1" in sentence
    assert "70001" in sentence
    assert len(errors) == len(BROKEN) + 1
    for address in ("10.96.0.10", "10.96.0.11"):
        assert fetch(lab.client, (address, 80)).pod


WRONG = {
    "userproxy.io/max-connections": ("many", "between 1 and 1000000"),
    "userproxy.io/on-endpoint-removal": ("drain:3 weeks", "between 1s and 1h"),
    "userproxy.io/balancer": ("Fair", "round-robin, random"),
    "userproxy.io/eject": ("at once", "between 1 and 1000"),
    "userproxy.io/client-address": ("mine", "auto, keep, node"),
    "userproxy.io/idle-timeout": ("soon", "between 1s and 24h"),
}
GOOD = {"userproxy.io/hold": "10m", "userproxy.io/connection-rate": "1000/s", "userproxy.io/overflow": "refuse"}
WEIGHTS = "userproxy.io/weights"


@pytest.mark.parametrize("lab", ["api"], indirect=True)
@pytest.mark.parametrize("workers", ["0", "2"])
def test_wrong_annotations_are_told_once_each_and_the_rest_of_the_service_works(lab: Lab, workers: str) -> None:
    """One Event and one line of the log, with object, annotation, value and what is allowed."""
    address = ("10.96.0.10", 80)
    lab.serve_http()
    annotations = {key: value for key, (value, _) in WRONG.items()} | GOOD
    lab.manifests.service("web", cluster_ip=address[0], annotations=annotations)
    lab.manifests.slice("web", lab.pods, annotations={WEIGHTS: "web-1=heavy"})
    proxy = lab.node.start_userproxy(*QUICK, "--workers", workers)
    lab.node.wait_for_portal(*address)
    eventually(lambda: len(told(lab)) == len(WRONG) + 1, 60, "an Event of each")
    assert fetch_many(lab.client, address, 30).pods.keys() == {pod.name for pod in lab.pods}
    lab.manifests.slice("web", [], annotations={WEIGHTS: "web-1=heavy"})
    eventually(lambda: is_held(lab, address), 30, "clients are held: the good ones count")
    lab.manifests.slice("web", lab.pods[:1], annotations={WEIGHTS: "web-1=heavy"})
    assert fetch(lab.client, address).pod == lab.pods[0].name
    expected = [
        (f"default/web: annotation {key}: ", f'"{value}" is not ', *rest) for key, (value, *rest) in WRONG.items()
    ]
    expected.append(
        (f"EndpointSlice default/web-ipv4: annotation {WEIGHTS}: ", '"web-1=heavy" is not ', "between 0 and 1000")
    )
    logged = [record["event"] for record in proxy.records if "annotation userproxy.io" in record["event"]]
    assert len(logged) == len(expected)
    assert len(told(lab)) == len(expected)
    for start, *fragments in expected:
        for texts in (logged, told(lab)):
            (text,) = [each for each in texts if each.startswith(start)]
            assert all(fragment in text for fragment in fragments), (fragments, text)


def told(lab: Lab) -> list[str]:
    """What Events say of annotations; repeated ones count as often as they are."""
    found = []
    for (kind, _, _), body in lab.api.objects.items():
        if kind == "Event" and body["reason"] == "BadAnnotation":
            assert (body["regarding"]["kind"], body["regarding"]["name"]) == ("Service", "web")
            found += [body["note"]] * body.get("series", {}).get("count", 1)
    return found


def is_held(lab: Lab, address: Address) -> bool:
    """Whether a client is, and not refused."""
    with lab.client.connect(address, 1) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
        try:
            sock.recv(1)
        except TimeoutError:
            return True
        return False


def test_a_file_that_breaks_keeps_serving_and_is_mended(lab: Lab) -> None:
    lab.serve_http()
    path = lab.manifests.service("web", ports=[Port(80, "http")], cluster_ip="10.96.0.10")
    lab.manifests.slice("web", lab.pods, ports=[Port(80, "http")])
    proxy = lab.node.start_userproxy()
    lab.node.wait_for_rules("10.96.0.10")
    good = path.read_text()
    lab.manifests.write_text(path.name, "apiVersion: v1\nkind: [")
    assert "its last good content stays" in proxy.wait_log(path.name)["event"]
    assert fetch(lab.client, ("10.96.0.10", 80)).pod
    lab.manifests.write_text(path.name, good.replace("10.96.0.10", "10.96.0.20"))
    lab.node.wait_for_rules("10.96.0.20")
    proxy.wait_log("Mended")
    assert fetch(lab.client, ("10.96.0.20", 80)).pod
