"""`--portals none`: a laptop with a kubeconfig uses a cluster's Services on local ports, whose table it is shown."""

from tests.lab.cluster import QUICK, Lab
from tests.lab.proxy import RunningProxy
from userproxy.demo.traffic import fetch
from userproxy.demo.waiting import eventually


def table(proxy: RunningProxy) -> dict[str, list[str]]:
    """Address and portals by service port, once it is printed."""
    eventually(lambda: any(line.startswith("SERVICE PORT") for line in list(proxy.lines)), 30, "there is a table")
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
