"""``userproxy explain``, and then a connection that meets just that."""

import json
from contextlib import suppress
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from tests.lab.cluster import QUICK, Lab
from tests.lab.datagrams import ask
from tests.lab.manifests import Backend, Policy, Port
from tests.lab.probes import DROPPED, REFUSED, SILENCE, try_to_connect
from tests.lab.proxy import WORKERS
from userproxy.addresses import IPFamily, host_and_port
from userproxy.admin.client import AdminClient, AdminError
from userproxy.admin.paths import ROOTS_SOCKET
from userproxy.demo.hosts import Address, Host
from userproxy.demo.traffic import fetch
from userproxy.demo.waiting import eventually

pytestmark = pytest.mark.e2e

SOURCES = ("Pod", "host", "outside")
KINDS = ("cluster IP", "external IP", "load-balancer IP", "node port")

policies: st.SearchStrategy[Policy] = st.sampled_from(["Cluster", "Local"])
conditions = st.sampled_from([(True, True, False), (False, True, True), (False, False, True), (False, False, False)])
zones = st.sampled_from([(), ("a",), ("b",), ("a", "b")])
backends = st.dictionaries(
    st.sampled_from(["web-1", "web-2", "web-3", "far-1", "far-2"]), st.tuples(conditions, zones), max_size=5
)
ranges = st.sampled_from([(), ("10.244.0.0/16",), ("192.0.2.0/24",), ("198.18.0.0/15",)])
near = st.tuples(st.sampled_from(SOURCES), st.sampled_from(KINDS))
connections = st.lists(near | st.just(("far Pod", "node port")), min_size=3, max_size=5)
"""A Pod of the other node is led to this one by a node port alone."""


READY = (True, True, False)
EVERYBODY = [(source, kind) for source in SOURCES for kind in KINDS]


class Cluster:
    """Two nodes; userproxy runs on the first. Every Service has a number."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        far = lab.add_second_node()
        lab.add_pod("far-client", far)
        lab.serve_http()
        lab.outside.ip_batch([f"route add 10.96.0.0/16 via {lab.node.address}"])
        lab.node.sysctl("net.ipv4.icmp_ratelimit", 0)  # else a client is refused once a second, and dropped meanwhile
        lab.node.start_userproxy(*QUICK, "--detect-local-mode", "NodeCIDR")
        self.sources: dict[str, Host] = {
            "Pod": lab.client,
            "host": lab.node,
            "outside": lab.outside,
            "far Pod": lab.network.nodes[1].pods[-1],
        }
        self.numbers = count(1)
        self.pods = {ip: pod.name for pod in lab.pods for ip in (pod.address, pod.address6)}
        lab.settle()
        path = lab.node.path(str(ROOTS_SOCKET))
        eventually(path.exists, 10, "there is an admin socket")
        self.api = AdminClient(path)

    def address(self, kind: str, number: int) -> Address:
        return {
            "cluster IP": (f"10.96.1.{number}", 80),
            "external IP": (f"203.0.113.{number}", 80),
            "load-balancer IP": (f"198.51.100.{number}", 80),
            "node port": (self.lab.node.address, 30000 + number),
        }[kind]


@pytest.fixture(scope="module")
def cluster(shared_lab: Lab) -> Cluster:
    return Cluster(shared_lab)


@settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(policies, policies, backends, ranges, st.sampled_from([None, 60]), connections)
@example("Local", "Local", {"far-1": (READY, ())}, (), None, EVERYBODY)
@example("Cluster", "Local", {"web-1": (READY, ("b",)), "far-1": (READY, ("a",))}, (), 60, EVERYBODY)
@example("Cluster", "Cluster", {"web-1": (READY, ()), "web-2": (READY, ())}, ("10.244.0.0/16",), None, EVERYBODY)
def test_what_is_explained_happens(
    cluster: Cluster,
    internal: Policy,
    external: Policy,
    found: dict[str, tuple[tuple[bool, bool, bool], tuple[str, ...]]],
    allowed: tuple[str, ...],
    affinity: int | None,
    asked: list[tuple[str, str]],
) -> None:
    lab, number = cluster.lab, next(cluster.numbers)
    name, pods = f"web-{number}", {pod.name: pod for pod in lab.pods}
    lab.manifests.service(
        name,
        cluster_ip=cluster.address("cluster IP", number)[0],
        external_ips=[cluster.address("external IP", number)[0]],
        load_balancer_ips=[cluster.address("load-balancer IP", number)[0]],
        node_port=30000 + number,
        internal_policy=internal,
        external_policy=external,
        source_ranges=allowed,
        affinity=affinity,
    )
    lab.manifests.slice(
        name,
        [
            Backend(pods[pod], ready=ready, serving=serving, terminating=terminating, for_zones=zones)
            for pod, ((ready, serving, terminating), zones) in found.items()
        ],
    )
    lab.settle()
    for source, kind in asked:
        ask_and_connect(cluster, name, cluster.sources[source], cluster.address(kind, number))


@pytest.mark.parametrize(
    ("internal", "external", "pods"),
    [
        ("Cluster", "Local", [3]),
        ("Local", "Cluster", [0]),
        ("Local", "Local", [0, 1, 3, 4]),
        ("Cluster", "Cluster", []),
    ],
)
def test_what_is_explained_happens_to_datagrams(
    cluster: Cluster, internal: Policy, external: Policy, pods: list[int]
) -> None:
    lab, number = cluster.lab, next(cluster.numbers)
    ports = [Port(80, "", "UDP", node_port=30000 + number)]
    lab.manifests.service(
        f"udp-{number}",
        ports=ports,
        cluster_ip=cluster.address("cluster IP", number)[0],
        external_ips=[cluster.address("external IP", number)[0]],
        load_balancer_ips=[cluster.address("load-balancer IP", number)[0]],
        internal_policy=internal,
        external_policy=external,
        source_ranges=["10.244.0.0/16"],
    )
    lab.manifests.slice(f"udp-{number}", [lab.pods[index] for index in pods], ports=ports)
    lab.settle()
    for source, kind in EVERYBODY:
        ask_and_connect(cluster, f"udp-{number}", cluster.sources[source], cluster.address(kind, number), "UDP")


def test_the_command(cluster: Cluster) -> None:
    lab = cluster.lab
    lab.manifests.service("shown", cluster_ip="10.96.2.1", node_port=31000, external_policy="Local")
    lab.manifests.slice("shown", [lab.pods[-1]])
    lab.settle()
    client = lab.outside.address
    done = lab.node.userproxy("explain", "default/shown", "--from", client, "--to", f"{lab.node.address}:31000")
    assert "Verdict:  drop: no endpoint of this node may serve, and policy Local allows no other" in done.stdout
    done = lab.node.userproxy("explain", "default/shown:80", "--from", client, "-o", "json")
    said = json.loads(done.stdout)
    assert (said["verdict"], said["next"], said["list"]) == ("serve", f"{lab.pods[-1].address}:8080", "cluster")
    for arguments, sentence in (
        (["default/none", "--from", client], "no Service default/none is served here"),
        (["default/shown:81", "--from", client], "default/shown has no port 81"),
        (["default/shown", "--from", client, "--to", "192.0.2.99"], "192.0.2.99 is no portal of default/shown"),
    ):
        done = lab.node.userproxy("explain", *arguments, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert sentence in done.stderr


def one_of(said: dict[str, Any]) -> list[str]:
    """Whom the client gets, by what was explained: one of them where data processes take turns apart."""
    assert WORKERS or not said["alternatives"]
    return [said["next"], *said["alternatives"]]


def ask_and_connect(
    cluster: Cluster, service: str, client: Host, address: Address, protocol: str = "TCP"
) -> dict[str, Any]:
    """What is explained, after a connection or a datagram has met just that."""
    source = client.address6 if ":" in address[0] else client.address
    to = host_and_port(*address)
    said = cluster.api.get("explain", namespace="default", service=service, client=source, to=to, protocol=protocol)
    expected = {"reject": REFUSED, "drop": DROPPED}.get(said["verdict"])
    if expected is not None:
        assert said["next"] is None
        fate = try_to_connect(client, address) if protocol == "TCP" else fate_of_datagram(client, address)
        assert fate == expected, said
    else:
        answer = fetch(client, address) if protocol == "TCP" else ask(client, address)
        first, *others = [cluster.pods[each.rpartition(":")[0].strip("[]")] for each in one_of(said)]
        assert answer.pod in {first, *others}, said
        assert answer.client_ip == said["source_address"] or answer.pod != first, said
    return said


def fate_of_datagram(client: Host, address: Address) -> str:
    """Whether a datagram is REFUSED by an ICMP message, or DROPPED without a word."""
    with client.udp_socket(address, SILENCE) as sock:
        with suppress(PermissionError):  # netfilter's verdict reaches a sender on the node itself directly
            sock.send(b"?")
        try:
            answer = sock.recv(1 << 16)
        except ConnectionRefusedError:
            return REFUSED
        except TimeoutError:
            return DROPPED
        return f"answered: {answer!r}"


def test_a_portal_that_an_older_service_has_leads_to_that_one(cluster: Cluster) -> None:
    lab = cluster.lab
    for name, pod, year in (("older", 0, 2020), ("younger", 1, 2021)):
        created = f"{year}-01-01T00:00:00Z"
        lab.manifests.service(name, cluster_ip=f"10.96.2.{pod + 11}", external_ips=["203.0.113.200"], created=created)
        lab.manifests.slice(name, [lab.pods[pod]])
    lab.settle()
    said = ask_and_connect(cluster, "younger", lab.client, ("203.0.113.200", 80))
    assert said["service"] == "default/older"
    assert said["reason"].startswith("default/older has this portal: ")
    assert ask_and_connect(cluster, "younger", lab.client, ("10.96.2.12", 80))["service"] == "default/younger"


def test_a_portal_on_a_port_that_is_kept_for_the_node_serves_nobody(cluster: Cluster) -> None:
    lab = cluster.lab
    own = lab.node.address
    lab.manifests.service("greedy", ports=[Port(6443)], cluster_ip="10.96.2.21", external_ips=[own])
    lab.manifests.slice("greedy", lab.pods[:1])
    lab.settle()
    said = ask_and_connect(cluster, "greedy", lab.outside, (own, 6443))
    assert (said["verdict"], "is kept for its own services" in said["reason"]) == ("reject", True)


def test_ipv6(cluster: Cluster) -> None:
    lab = cluster.lab
    lab.manifests.service("six", cluster_ip=["10.96.2.31", "fd00:10:96::31"], node_port=31031, external_policy="Local")
    lab.manifests.slices("six", [lab.pods[0], lab.pods[-1]])
    lab.settle(*IPFamily)
    for client in (lab.client, lab.node):
        assert ask_and_connect(cluster, "six", client, ("fd00:10:96::31", 80))["verdict"] == "serve"
    said = ask_and_connect(cluster, "six", lab.outside, (lab.node.address6, 31031))
    assert (said["list"], said["next"]) == ("local", f"[{lab.pods[0].address6}]:8080")
    assert [each["usable"] for each in said["endpoints"]].count(True) == 1


def test_an_endpoint_that_could_not_be_reached_is_passed_over(cluster: Cluster) -> None:
    lab = cluster.lab
    lab.manifests.service("half", cluster_ip="10.96.2.41")
    lab.manifests.slice("half", [lab.pods[0], Backend("10.244.1.250")])
    lab.settle()
    served = f"{lab.pods[0].address}:8080"

    def passed_over() -> bool:
        fetch(lab.client, ("10.96.2.41", 80))
        said = cluster.api.get("explain", namespace="default", service="half", client=lab.client.address)
        reasons = {each["endpoint"]: each["reason"] for each in said["endpoints"]}
        reason: str = reasons["10.244.1.250:8080"]
        return bool(said["next"] == served) and reason.startswith("passed over for ")

    eventually(passed_over, 30, "the dead endpoint is passed over")


def test_nothing_is_changed(cluster: Cluster) -> None:
    lab = cluster.lab
    lab.manifests.service("asked", cluster_ip="10.96.2.2", affinity=60)
    lab.manifests.slice("asked", lab.pods[:3])
    lab.settle()
    asked = {"namespace": "default", "service": "asked", "client": lab.client.address}
    first = cluster.api.get("explain", **asked)
    assert [cluster.api.get("explain", **asked) for _ in range(5)] == [first] * 5
    assert fetch(lab.client, ("10.96.2.2", 80)).pod == cluster.pods[first["next"].rpartition(":")[0]]
    again = cluster.api.get("explain", **asked)
    assert (again["next"], again["next_reason"]) == (first["next"], "the client sticks to it")


def test_a_question_that_makes_no_sense_is_one_sentence(cluster: Cluster) -> None:
    with pytest.raises(AdminError, match="client is missing"):
        cluster.api.get("explain", namespace="default", service="web")
