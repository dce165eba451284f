"""Balancers and weights: who gets connections from real servers, with and without data processes."""

import json
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.manifests import Backend, Port
from tests.lab.probes import KeptConnection
from tests.lab.proxy import WORKERS
from userproxy.demo.traffic import ask, fetch_many
from userproxy.demo.waiting import eventually

pytestmark = pytest.mark.e2e

WEB = ("10.96.0.10", 80)
BALANCER = "userproxy.io/balancer"
WEIGHTS = "userproxy.io/weights"
each_number_of_workers = pytest.mark.parametrize("workers", ["0", "2"], ids=["one process", "two data processes"])


def serve(lab: Lab, balancer: str, workers: str = "0", weights: str = "") -> None:
    lab.serve_http()
    edit(lab, balancer)
    lab.manifests.slice("web", lab.pods, annotations={WEIGHTS: weights} if weights else None)
    lab.node.start_userproxy(*QUICK, "--workers", workers)
    lab.settle()


def edit(lab: Lab, balancer: str) -> None:
    lab.manifests.service("web", cluster_ip=WEB[0], annotations={BALANCER: balancer})


def explained(lab: Lab) -> dict[str, Any]:
    text = lab.node.userproxy("explain", "default/web", "--from", lab.client.address, "-o", "json").stdout
    found: dict[str, Any] = json.loads(text)
    return found


@each_number_of_workers
@pytest.mark.parametrize("balancer", ["source-hash", "maglev", "first-available"])
def test_a_client_has_one_endpoint_and_another_one_while_that_is_dead(lab: Lab, balancer: str, workers: str) -> None:
    serve(lab, balancer, workers)
    (first,) = fetch_many(lab.client, WEB, 20).pods
    pods = {pod.name: pod for pod in lab.pods}
    assert explained(lab)["next"] == f"{pods[first].address}:8080"
    lab.manifests.slice("web", [pod for pod in lab.pods if pod.name != first])
    lab.settle()
    assert first not in led_to_one(lab, balancer)
    lab.manifests.slice("web", lab.pods)
    lab.settle()
    led_to_one(lab, balancer, first)


def led_to_one(lab: Lab, balancer: str, pod: str = "") -> set[str]:
    """All Pods that a client was led to until it was led to one alone, and to `pod` if that is given.

    Only maglev may take time for it: the table before serves until there is one of the endpoints that are left.
    """
    found: set[str] = set()

    def is_led() -> bool:
        pods = set(fetch_many(lab.client, WEB, 10).pods)
        found.update(pods)
        return len(pods) == 1 and pods <= {pod or min(pods)}

    if balancer == "maglev":
        eventually(is_led, 10, f"one Pod is chosen {pod}")
    else:
        assert is_led(), found
    return found


@each_number_of_workers
def test_nodes_and_successors_choose_the_same(lab: Lab, workers: str) -> None:
    """What one process has learned is gone with it: only what is computed can be the same."""
    serve(lab, "maglev", workers)
    before = [set(fetch_many(host, WEB, 5).pods) for host in (lab.client, lab.node)]
    lab.node.proxies[0].terminate()
    lab.node.start_userproxy(*QUICK, "--workers", workers)
    lab.settle()
    assert [set(fetch_many(host, WEB, 5).pods) for host in (lab.client, lab.node)] == before
    assert [len(pods) for pods in before] == [1, 1]


def test_least_connections_goes_by_those_that_are_open(lab: Lab) -> None:
    serve(lab, "least-connections")
    with ExitStack() as stack:
        kept = [stack.enter_context(KeptConnection(lab.client, WEB)) for _ in range(9)]
        held = Counter(connection.ask().pod for connection in kept)
        assert set(held.values()) == {3}
        (busy, *_) = held
        for connection in kept:
            if connection.ask().pod != busy:
                connection.close()
        eventually(lambda: active(lab) == {busy: 3}, 30, "the others have nothing to do")
        assert busy not in fetch_many(lab.client, WEB, 20, concurrency=1).pods


def active(lab: Lab) -> dict[str, int]:
    listed = json.loads(lab.node.userproxy("get", "endpoints", "-o", "json").stdout)["items"]
    names = {f"{pod.address}:8080": pod.name for pod in lab.pods}
    return {names[each["endpoint"]]: each["active"] for each in listed if each["active"]}


def test_an_edited_balancer_counts_from_the_next_connection_on(lab: Lab) -> None:
    serve(lab, "first-available")
    assert len(fetch_many(lab.client, WEB, 9).pods) == 1
    with KeptConnection(lab.client, WEB) as kept:
        pod = kept.ask().pod
        edit(lab, "round-robin")
        lab.settle()
        assert set(fetch_many(lab.client, WEB, 9).pods) == {each.name for each in lab.pods}
        assert kept.ask().pod == pod
        assert "Balancer:        round-robin" in lab.node.userproxy("describe", "service", "default/web").stdout


def test_a_name_that_is_none_is_told_and_costs_nothing_else(lab: Lab) -> None:
    serve(lab, "leastconn")
    assert len(fetch_many(lab.client, WEB, 9).pods) == 3
    text = 'default/web: annotation userproxy.io/balancer: "leastconn" is not one of round-robin, random, '
    record = lab.node.proxies[0].wait_log("leastconn")
    assert record["event"].startswith(text)
    assert sum(record["event"] == each["event"] for each in lab.node.proxies[0].records) == 1
    assert "leastconn" in lab.node.userproxy("describe", "service", "default/web").stdout


@each_number_of_workers
def test_shares_are_those_of_the_weights(lab: Lab, workers: str) -> None:
    one, two, three = lab.pods
    serve(lab, "round-robin", workers, f"{one.name}=3,{two.address}=0")
    pods = fetch_many(lab.client, WEB, 80).pods
    assert set(pods) == {one.name, three.name}
    # Of one process 60 and 20; of two each may be in the middle of its turns.
    assert abs(pods[one.name] - 60) <= 2 * (1 + int(workers))
    listed = json.loads(lab.node.userproxy("get", "endpoints", "default/web", "-o", "json").stdout)["items"]
    assert {each["endpoint"]: (each["weight"], each["usable"], each["reason"]) for each in listed} == {
        f"{one.address}:8080": (3, True, ""),
        f"{two.address}:8080": (0, False, "its weight is 0"),
        f"{three.address}:8080": (1, True, ""),
    }
    lab.manifests.slice("web", lab.pods, annotations={WEIGHTS: f"{one.name}=0,{two.name}=0,{three.name}=0"})
    lab.settle()
    assert set(fetch_many(lab.client, WEB, 30).pods) == {one.name, two.name, three.name}


def test_one_that_has_no_weight_any_more_keeps_its_connections(lab: Lab) -> None:
    serve(lab, "round-robin")
    with KeptConnection(lab.client, WEB) as kept:
        pod = kept.ask().pod
        lab.manifests.slice("web", lab.pods, annotations={WEIGHTS: f"{pod}=0"})
        lab.settle()
        assert pod not in fetch_many(lab.client, WEB, 10).pods
        assert kept.ask().pod == pod


def test_wrong_weights_are_told_and_cost_nothing_else(lab: Lab) -> None:
    serve(lab, "round-robin", weights="web-1=many")
    assert len(fetch_many(lab.client, WEB, 9).pods) == 3
    record = lab.node.proxies[0].wait_log("web-1=many")
    text = 'EndpointSlice default/web-ipv4: annotation userproxy.io/weights: "web-1=many" is not ADDRESS=WEIGHT or '
    assert record["event"].startswith(text)


def test_a_hint_weight_lets_others_take_the_rest(lab: Lab) -> None:
    one, two, three = lab.pods
    backends = [Backend(one, for_zones=("a",)), Backend(two, for_zones=("b",)), Backend(three, for_zones=("b",))]
    lab.serve_http()
    lab.manifests.node(lab.node, zone="a")
    lab.manifests.service("web", cluster_ip=WEB[0])
    lab.manifests.slice("web", backends)
    lab.node.start_userproxy(*QUICK)
    lab.settle()
    assert set(fetch_many(lab.client, WEB, 6).pods) == {one.name}
    lab.manifests.service("web", cluster_ip=WEB[0], annotations={"userproxy.io/hint-weight": "4"})
    lab.settle()
    pods = fetch_many(lab.client, WEB, 18, concurrency=1).pods
    if int(WORKERS or 0) > 1:  # each data process has turns of its own, and may be off by one
        off = int(WORKERS)
        assert max((pods[one.name] - off) / 4, pods[two.name] - off, pods[three.name] - off) <= min(
            (pods[one.name] + off) / 4, pods[two.name] + off, pods[three.name] + off
        )
    else:
        assert pods == {one.name: 12, two.name: 3, three.name: 3}


def test_flows_are_balanced_alike(lab: Lab) -> None:
    """A client's datagrams from any port of its own go to the endpoint that its address has."""
    lab.serve_http()
    lab.manifests.service(
        "web", cluster_ip=WEB[0], ports=[Port(80, protocol="UDP")], annotations={BALANCER: "source-hash"}
    )
    lab.manifests.slice("web", lab.pods, ports=[Port(80, protocol="UDP")])
    lab.node.start_userproxy(*QUICK)
    lab.settle()
    (name,) = {ask(lab.client, WEB).pod for _ in range(12)}
    assert explained(lab)["next"] == f"{next(pod for pod in lab.pods if pod.name == name).address}:8080"


FAULTY = """
import time
class Faulty:
    def __init__(self, endpoints, weights):
        self.left = 4
        self.first = endpoints[0]
    def choose(self, client, avoided):
        self.left -= 1
        if not self.left:
            raise ValueError("no more")
        return self.first
"""


@each_number_of_workers
def test_a_balancer_of_another_package_and_one_that_is_faulty(lab: Lab, tmp_path: Path, workers: str) -> None:
    """The example, as installed by pip. The faulty one costs its own Service no more than its balancer."""
    example = Path(__file__).parents[2] / "examples" / "custom_balancer"
    packages = tmp_path / "packages"
    about = packages / "its-1.0.dist-info"
    about.mkdir(parents=True)
    (packages / "by_network.py").write_text((example / "by_network.py").read_text())
    (packages / "faulty.py").write_text(FAULTY)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: its\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[userproxy.balancers]\nby-network = by_network:ByNetwork\nfaulty = faulty:Faulty\nabsent = absent:Absent\n"
    )
    lab.serve_http()
    names = {"by-network": "10.96.0.10", "faulty": "10.96.0.11", "absent": "10.96.0.12"}
    for name, ip in names.items():
        lab.manifests.service(name, cluster_ip=ip, annotations={BALANCER: name})
        lab.manifests.slice(name, lab.pods)
    lab.node.start_userproxy(*QUICK, "--workers", workers, env={"PYTHONPATH": str(packages)})
    lab.settle()
    # It is imported beside the traffic, and until then round-robin serves.
    eventually(lambda: len(fetch_many(lab.client, (names["by-network"], 80), 12).pods) == 1, 30, "it is imported")
    for name in ("faulty", "absent"):
        eventually(partial(is_spread, lab, names[name]), 30, "round-robin serves")
    proxy = lab.node.proxies[0]
    record = proxy.wait_log("it raised ValueError: no more")
    assert record["event"].startswith(
        "default/faulty: balancer faulty is not used any more, and round-robin in its place"
    )
    proxy.wait_log("absent:Absent cannot be imported: ModuleNotFoundError")
    assert sum("balancer faulty is not used" in each["event"] for each in proxy.records) == 1
    assert "it raised ValueError: no more" in lab.node.userproxy("describe", "service", "default/faulty").stdout
    assert "Balancer:        by-network" in lab.node.userproxy("describe", "service", "default/by-network").stdout
    assert len(fetch_many(lab.client, (names["by-network"], 80), 12).pods) == 1


def is_spread(lab: Lab, ip: str) -> bool:
    return len(fetch_many(lab.client, (ip, 80), 24).pods) == 3
