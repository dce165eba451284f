"""What stands in the tables: the worked example rule for rule, foreign rules as they stood, nothing afterwards."""

import pytest

from tests.lab.cluster import Lab, LabNode
from tests.lab.manifests import Port
from userproxy.demo.traffic import fetch, fetch_many
from userproxy.demo.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.parametrize("lab", ["manifests", "api"], indirect=True)]

variants = pytest.mark.parametrize("variant", ["legacy", "nft"])

EXAMPLE = """\
*filter
:KUBE-NODEPORT-NON-LOCAL -
:KUBE-PORTALS-FILTER -
:KUBE-PORTALS-FILTER-HOST -
-A INPUT -m conntrack --ctstate NEW -m comment --comment "refuse portal traffic that is not served" -j KUBE-PORTALS-FILTER
-A INPUT -m comment --comment "Ensure that non-local NodePort traffic can flow" -j KUBE-NODEPORT-NON-LOCAL
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "refuse portal traffic that is not served" -j KUBE-PORTALS-FILTER
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "refuse portal traffic that is not served" -j KUBE-PORTALS-FILTER-HOST
-A KUBE-NODEPORT-NON-LOCAL -p tcp -m comment --comment "default/web:http" -m tcp --dport 41234 -m state --state NEW -j ACCEPT
*nat
:KUBE-NODEPORT-CONTAINER -
:KUBE-NODEPORT-HOST -
:KUBE-PORTALS-CONTAINER -
:KUBE-PORTALS-HOST -
-A PREROUTING -m comment --comment "handle ClusterIPs; NOTE: this must be before the NodePort rules" -j KUBE-PORTALS-CONTAINER
-A PREROUTING -m addrtype --dst-type LOCAL -m comment --comment "handle service NodePorts; NOTE: this must be the last rule in the chain" -j KUBE-NODEPORT-CONTAINER
-A OUTPUT -m comment --comment "handle ClusterIPs; NOTE: this must be before the NodePort rules" -j KUBE-PORTALS-HOST
-A OUTPUT -m addrtype --dst-type LOCAL -m comment --comment "handle service NodePorts; NOTE: this must be the last rule in the chain" -j KUBE-NODEPORT-HOST
-A KUBE-NODEPORT-CONTAINER -p tcp -m comment --comment "default/web:http" -m tcp --dport 30080 -j REDIRECT --to-ports 41234
-A KUBE-NODEPORT-HOST -p tcp -m comment --comment "default/web:http" -m tcp --dport 30080 -j DNAT --to-destination 192.0.2.10:41234
-A KUBE-PORTALS-CONTAINER -d 10.96.0.10/32 -p tcp -m comment --comment "default/web:http" -m tcp --dport 80 -j REDIRECT --to-ports 41234
-A KUBE-PORTALS-CONTAINER -d 203.0.113.5/32 -p tcp -m comment --comment "default/web:http" -m tcp --dport 80 -j REDIRECT --to-ports 41234
-A KUBE-PORTALS-HOST -d 10.96.0.10/32 -p tcp -m comment --comment "default/web:http" -m tcp --dport 80 -j DNAT --to-destination 192.0.2.10:41234
-A KUBE-PORTALS-HOST -d 203.0.113.5/32 -p tcp -m comment --comment "default/web:http" -m tcp --dport 80 -j DNAT --to-destination 192.0.2.10:41234
"""  # noqa: E501 -- as iptables-save prints it

FOREIGN = [
    "-t nat -N FOREIGN",
    "-t nat -A FOREIGN -j RETURN",
    "-t nat -A PREROUTING -p tcp --dport 1 -j FOREIGN",
    "-t nat -A OUTPUT -p tcp --dport 2 -j RETURN",
    "-t nat -A POSTROUTING -s 10.0.0.0/8 -p tcp --dport 3 -j MASQUERADE",
    "-t filter -N KUBE-FIREWALL",
    "-t filter -A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP",
    "-t filter -A INPUT -j KUBE-FIREWALL",
]


def use(node: LabNode, variant: str) -> None:
    """Leave kubelet's hint, so that userproxy takes this variant."""
    node.run([f"iptables-{variant}", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT"])


def saved(node: LabNode, variant: str) -> list[str]:
    """iptables-save without comments, COMMIT, counters, policies' chains and tables that we do not write."""
    lines = []
    for table in ("filter", "nat"):
        text = node.run([f"iptables-{variant}-save", "-t", table]).stdout
        for line in text.splitlines():
            if line.startswith(("*", "-A")):
                lines.append(line)
            elif line.startswith(":") and " - " in line:
                lines.append(line.split(" [")[0])
    return lines


def foreign(node: LabNode, variant: str) -> None:
    for command in FOREIGN:
        node.run([f"iptables-{variant}", *command.split()])


def serve_example(lab: Lab, *flags: str) -> None:
    lab.serve_http()
    lab.manifests.service(
        "web", ports=[Port(80, "http")], cluster_ip="10.96.0.10", external_ips=["203.0.113.5"], node_port=30080
    )
    lab.manifests.slice("web", lab.pods, ports=[Port(80, "http")])
    lab.node.start_userproxy("--proxy-port-range", "41234", *flags)


@variants
def test_the_worked_example_stands_rule_for_rule(lab: Lab, variant: str) -> None:
    use(lab.node, variant)
    serve_example(lab)
    eventually(lambda: saved(lab.node, variant) == EXAMPLE.splitlines(), 30, "the example stands")
    other = "nft" if variant == "legacy" else "legacy"
    assert "KUBE-" not in lab.node.run([f"iptables-{other}-save"]).stdout
    assert fetch(lab.client, ("10.96.0.10", 80)).pod


@variants
def test_a_stop_leaves_foreign_rules_where_they_stood(lab: Lab, variant: str) -> None:
    use(lab.node, variant)
    foreign(lab.node, variant)
    before = saved(lab.node, variant)
    serve_example(lab)
    eventually(lambda: any("41234" in line for line in saved(lab.node, variant)), 30, "rules stand")
    with_us = saved(lab.node, variant)
    assert [line for line in with_us if line in before] == before
    assert lab.node.proxies[0].terminate() == 0
    assert saved(lab.node, variant) == before


@variants
def test_cleanup_after_a_kill_removes_ours_and_says_so(lab: Lab, variant: str) -> None:
    use(lab.node, variant)
    foreign(lab.node, variant)
    before = saved(lab.node, variant)
    serve_example(lab)
    eventually(lambda: any("41234" in line for line in saved(lab.node, variant)), 30, "rules stand")
    lab.node.proxies[0].kill()
    assert saved(lab.node, variant) != before
    said = lab.node.userproxy("cleanup").stdout
    assert saved(lab.node, variant) == before
    for chain in ("KUBE-PORTALS-CONTAINER", "KUBE-PORTALS-HOST", "KUBE-NODEPORT-CONTAINER", "KUBE-NODEPORT-NON-LOCAL"):
        assert chain in said
    assert "Nothing of userproxy was found" in lab.node.userproxy("cleanup").stdout


@variants
def test_after_a_kill_a_new_start_converges(lab: Lab, variant: str) -> None:
    use(lab.node, variant)
    foreign(lab.node, variant)
    serve_example(lab)
    eventually(lambda: any("41234" in line for line in saved(lab.node, variant)), 30, "rules stand")
    first = saved(lab.node, variant)
    lab.node.proxies[0].kill()
    lab.manifests.service("web", ports=[Port(80, "http")], cluster_ip="10.96.0.11", node_port=30081)
    proxy = lab.node.start_userproxy()
    lab.node.wait_for_rules("10.96.0.11") if variant == "nft" else eventually(
        lambda: any("10.96.0.11" in line for line in saved(lab.node, variant)), 30, "the new rules"
    )
    eventually(lambda: not any("10.96.0.10" in line for line in saved(lab.node, variant)), 30, "no stale rule")
    now = saved(lab.node, variant)
    assert len(now) == len(set(now))
    assert not any("30080" in line or "203.0.113.5" in line for line in now)
    assert any("--to-ports 41234" in line for line in now), "the port of the killed process is taken again"
    assert len(now) == len(first) - 2  # an external IP has two rules
    assert fetch(lab.client, ("10.96.0.11", 80)).pod
    assert proxy.terminate() == 0


@variants
def test_rules_that_others_break_are_repaired(lab: Lab, variant: str) -> None:
    use(lab.node, variant)
    serve_example(lab, "--iptables-sync-period", "1s", "-v", "1")
    eventually(lambda: saved(lab.node, variant) == EXAMPLE.splitlines(), 30, "the example stands")
    lab.node.run([f"iptables-{variant}", "-t", "nat", "-F", "KUBE-PORTALS-HOST"])
    lab.node.run([f"iptables-{variant}", "-t", "nat", "-D", "PREROUTING", "1"])
    lab.node.run([f"iptables-{variant}", "-t", "nat", "-A", "KUBE-NODEPORT-HOST", "-p", "tcp", "-j", "RETURN"])
    eventually(lambda: sorted(saved(lab.node, variant)) == sorted(EXAMPLE.splitlines()), 30, "repaired")
    proxy = lab.node.proxies[0]
    assert proxy.wait_log("Rules repaired, because something else had changed them")["rules"] == 7
    opened = proxy.wait_log("Listener opened")
    assert opened["portals"] == "cluster IP 10.96.0.10:80, external IP 203.0.113.5:80, node port 30080"


@variants
def test_another_program_that_writes_at_the_same_time_loses_nothing(lab: Lab, variant: str) -> None:
    use(lab.node, variant)
    serve_example(lab, "--iptables-min-sync-period", "0s", "--iptables-sync-period", "1s", "--proxy-port-range", "")
    append = f"iptables-{variant} -w 5 -t nat -A POSTROUTING -p tcp --dport $n -j RETURN"
    script = f"for n in $(seq 1 150); do {append} || exit 1; done"
    writer = lab.node.popen(["sh", "-c", script])
    for number in range(1, 41):
        lab.manifests.service(f"more-{number}", ports=[Port(80, "http")], cluster_ip=f"10.96.1.{number}")
    assert writer.wait(60) == 0
    eventually(lambda: sum("more-" in line for line in saved(lab.node, variant)) == 80, 30, "all our rules")
    assert sum("--dport" in line for line in saved(lab.node, variant) if "POSTROUTING" in line) == 150
    assert not fetch_many(lab.client, ("10.96.0.10", 80), 30).failures


def test_two_services_with_one_node_port_one_is_served_the_other_named(lab: Lab) -> None:
    serve_example(lab, "--proxy-port-range", "")
    lab.manifests.service(
        "late", ports=[Port(80, "http")], cluster_ip="10.96.0.20", node_port=30080, created="2026-06-01T00:00:00Z"
    )
    lab.manifests.slice("late", lab.pods, ports=[Port(80, "http")])
    proxy = lab.node.proxies[0]
    record = proxy.wait_log("default/late:http: node port 30080 (TCP) is not served, because default/web:http has it")
    assert record["level"] == "warning"
    rules = lab.node.wait_for_rules("default/late:http")
    assert [line for line in rules if "30080" in line and "late" in line] == []
    assert fetch(lab.outside, ("192.0.2.10", 30080)).pod
    assert fetch(lab.client, ("10.96.0.20", 80)).pod


def test_a_node_port_that_another_program_has_is_retried(lab: Lab) -> None:
    with lab.node.listen(30080):
        serve_example(lab, "--iptables-sync-period", "1s")
        proxy = lab.node.proxies[0]
        proxy.wait_log("default/web:http: node port 30080 (TCP) is not served")
        assert fetch(lab.client, ("10.96.0.10", 80)).pod
    proxy.wait_log("No longer so")
    lab.node.wait_for_rules("--dport 30080")
    assert fetch(lab.outside, ("192.0.2.10", 30080)).pod
    with pytest.raises(OSError, match="in use"):
        lab.node.listen(30080)
