"""`--portals none`: a laptop with a kubeconfig uses a cluster's Services on local ports, whose table it is shown."""

import json
from typing import Any

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.datagrams import ask
from tests.lab.manifests import Port
from tests.lab.proxy import WORKERS, RunningProxy
from userproxy.demo.traffic import fetch
from userproxy.demo.waiting import eventually


def table(proxy: RunningProxy) -> dict[str, list[str]]:
    """Address and portals by service port, once all of it is printed: ``default/web`` is the last."""
    eventually(
        lambda: any(line.startswith(("default/web ", "default/web:")) for line in list(proxy.lines)),
        30,
        "there is a table",
    )
    lines = list(proxy.lines)
    begin = next(number for number, line in enumerate(lines) if line.startswith("SERVICE PORT"))
    rows = [line.split(maxsplit=2) for line in lines[begin + 1 :] if not line.startswith("{")]
    return {row[0]: row[1:] for row in rows}


def test_services_are_listed_with_local_ports_that_stay_the_same(lab: Lab) -> None:
    lab.serve_http()
    for name, ip, pods in (("web", "10.96.0.10", lab.pods[:1]), ("api", "10.96.0.11", lab.pods[1:2])):
        lab.manifests.service(name, cluster_ip=ip)
        lab.manifests.slice(name, pods)
    first = lab.node.start_userproxy(*QUICK, "--portals", "none")
    listed = table(first)
    assert {name: portals.split(":")[0] for name, (_, portals) in listed.items()} == {
        "default/api": "cluster IP 10.96.0.11",
        "default/web": "cluster IP 10.96.0.10",
    }
    for name, pod in (("default/web", "web-1"), ("default/api", "web-2")):
        host, _, port = listed[name][0].rpartition(":")
        assert host == "127.0.0.1"
        assert fetch(lab.node, (host, int(port))).pod == pod
    assert first.terminate() == 0
    assert table(lab.node.start_userproxy(*QUICK, "--portals", "none")) == listed


def explained(lab: Lab, service: str, *arguments: str) -> dict[str, Any]:
    """What ``explain`` says of a client on the node."""
    done = lab.node.userproxy("explain", service, "--from", "127.0.0.1", *arguments, "-o", "json")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def local_port(lab: Lab, service: str) -> int | None:
    """What ``get portals`` says where clients of a service port are to dial."""
    done = lab.node.userproxy("get", "portals", service, "-o", "json")
    (portal,) = json.loads(done.stdout)["items"]
    assert (portal["driver"], portal["in_sync"]) == ("none", True)
    port: int | None = portal["local_port"]
    return port


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_what_is_explained_happens_at_the_local_port(lab: Lab, protocol: str) -> None:
    lab.serve_http()
    pods = {f"{pod.address}:8080": pod.name for pod in lab.pods}
    ports = [Port(80, "one", protocol)]
    for name, ip, backends in (
        ("web", "10.96.0.10", lab.pods),
        ("stuck", "10.96.0.11", lab.pods),
        ("empty", "10.96.0.12", []),
    ):
        lab.manifests.service(name, ports=ports, cluster_ip=ip, affinity=60 if name == "stuck" else None)
        lab.manifests.slice(name, backends, ports=ports)
    table(lab.node.start_userproxy(*QUICK, "--portals", "none"))
    for name in ("web", "stuck"):
        address = "127.0.0.1", local_port(lab, f"default/{name}") or 0
        nexts = set()
        for number in range(4):
            said = explained(lab, f"default/{name}:one", *(["--to", "10.96.0.10"] if name == "web" else []))
            assert (said["verdict"], said["protocol"], said["driver"]) == ("serve", protocol, "none")
            assert f"(--portals none): clients dial local port {address[1]}" in said["reason"]
            answer = fetch(lab.node, address) if protocol == "TCP" else ask(lab.node, address)
            assert WORKERS or not said["alternatives"]
            assert answer.pod in {pods[each] for each in (said["next"], *said["alternatives"])}
            nexts.add(answer.pod)
            sticks = name == "stuck" and number > 0
            reason = "the client sticks to it" if sticks else "it is its turn"
            assert said["next_reason"].startswith(reason) if said["alternatives"] else said["next_reason"] == reason
        assert len(nexts) == 1 if name == "stuck" else len(nexts) == 3 or WORKERS
    said = explained(lab, "default/empty")
    assert (said["verdict"], said["reason"], said["next"]) == ("reject", "there are no endpoints", None)
    assert local_port(lab, "default/empty") is None, "nobody listens"
