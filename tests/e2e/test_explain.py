"""``userproxy explain``, and then a connection that meets just that."""

import json
from itertools import count

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.lab.cluster import QUICK, Lab
from tests.lab.manifests import Backend, Policy
from tests.lab.probes import DROPPED, REFUSED, try_to_connect
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


class Cluster:
    """Two nodes; userproxy runs on the first. Every Service has a number."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        far = lab.add_second_node()
        lab.add_pod("far-client", far)
        lab.serve_http()
        lab.outside.ip_batch([f"route add 10.96.0.0/16 via {lab.node.address}"])
        lab.node.start_userproxy(*QUICK, "--detect-local-mode", "NodeCIDR")
        self.sources: dict[str, Host] = {
            "Pod": lab.client,
            "host": lab.node,
            "outside": lab.outside,
            "far Pod": lab.network.nodes[1].pods[-1],
        }
        self.numbers = count(1)
        self.pods = {pod.address: pod.name for pod in lab.pods}
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
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(policies, policies, backends, ranges, st.sampled_from([None, 60]), connections)
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
        address = cluster.address(kind, number)
        said = cluster.api.get(
            "explain",
            namespace="default",
            service=name,
            client=cluster.sources[source].address,
            to=f"{address[0]}:{address[1]}",
        )
        expected = {"reject": REFUSED, "drop": DROPPED}.get(said["verdict"])
        if expected is not None:
            assert said["next"] is None
            assert try_to_connect(cluster.sources[source], address) == expected, said
        else:
            assert fetch(cluster.sources[source], address).pod == cluster.pods[said["next"].rpartition(":")[0]], said


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
