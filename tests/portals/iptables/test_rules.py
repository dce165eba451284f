import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.portals.examples import DROP, NOBODY, REJECT, WEB, WEB_NAME, WEB_RULES, led_to, serve
from tests.portals.strategies import binding_lists
from userproxy.errors import ObjectError
from userproxy.model import IPFamily, LocalTraffic, Portal, PortalBinding, PortalKind, Protocol, ServicePortName, Target
from userproxy.portals.iptables.chains import CHAINS, Rule, jump_rules
from userproxy.portals.iptables.rules import portal_rules


def test_the_worked_example() -> None:
    made: dict[str, dict[str, list[str]]] = {"nat": {}, "filter": {}}
    for rule in [jump.rule for jump in jump_rules()] + list(portal_rules(WEB, "0.0.0.0", "192.0.2.10", NOBODY)):
        made[rule.table].setdefault(rule.chain, []).append(rule.spec)
    assert made == WEB_RULES


@settings(deadline=None)
@given(st.sampled_from(IPFamily).flatmap(lambda family: st.tuples(st.just(family), binding_lists(family))))
def test_every_rule_is_of_a_chain_of_its_own_table(drawn: tuple[IPFamily, list[PortalBinding]]) -> None:
    family, bindings = drawn
    host = "192.0.2.10" if family is IPFamily.IPV4 else "2001:db8::10"
    for binding in bindings:
        for rule in portal_rules(binding, "0.0.0.0" if family is IPFamily.IPV4 else "::", host, NOBODY):
            assert rule.chain in CHAINS[rule.table]


@pytest.mark.parametrize(
    ("portal", "chain", "spec"),
    [
        (
            Portal(PortalKind.LOAD_BALANCER_IP, "198.51.100.7", 53),
            "KUBE-PORTALS-CONTAINER",
            '-d 198.51.100.7/32 -p udp -m comment --comment "kube-system/dns" -m udp --dport 53'
            " -j DNAT --to-destination 192.0.2.11:5000",
        ),
        (
            Portal(PortalKind.EXTERNAL_IP, "198.51.100.7", 53),
            "KUBE-PORTALS-HOST",
            '-d 198.51.100.7/32 -p udp -m comment --comment "kube-system/dns" -m udp --dport 53'
            " -j DNAT --to-destination 192.0.2.11:5000",
        ),
        (
            Portal(PortalKind.NODE_PORT, "", 30053),
            "KUBE-NODEPORT-CONTAINER",
            '-p udp -m comment --comment "kube-system/dns" -m udp --dport 30053'
            " -j DNAT --to-destination 192.0.2.11:5000",
        ),
    ],
)
def test_a_specific_bind_address_is_led_to_by_dnat(portal: Portal, chain: str, spec: str) -> None:
    name = ServicePortName("kube-system", "dns", "", Protocol.UDP)
    rules = portal_rules(led_to(name, 5000, (portal,)), "192.0.2.11", "192.0.2.11", NOBODY)
    assert Rule("nat", chain, spec) in rules


@pytest.mark.parametrize("host_ip", ["192.0.2.10", "2001:db8::10"])
def test_where_redirect_does_not_work_all_packets_are_led_to_the_nodes_address(host_ip: str) -> None:
    anywhere, goal = ("::", f"[{host_ip}]:41234") if ":" in host_ip else ("0.0.0.0", f"{host_ip}:41234")
    redirected = portal_rules(WEB, anywhere, host_ip, NOBODY)
    translated = portal_rules(WEB, anywhere, host_ip, NOBODY, redirects=False)
    assert "REDIRECT" in str(redirected)
    assert [rule.spec.replace("REDIRECT --to-ports 41234", f"DNAT --to-destination {goal}") for rule in redirected] == [
        rule.spec for rule in translated
    ]


def test_ipv6_portals_have_a_long_mask_and_brackets() -> None:
    portals = (Portal(PortalKind.CLUSTER_IP, "fd00::10", 80), Portal(PortalKind.CLUSTER_IP, "10.96.0.10", 80))
    specs = [rule.spec for rule in portal_rules(led_to(WEB_NAME, 41234, portals), "::", "2001:db8::1", NOBODY)]
    assert specs == [
        '-d fd00::10/128 -p tcp -m comment --comment "default/web:http" -m tcp --dport 80 -j REDIRECT --to-ports 41234',
        '-d fd00::10/128 -p tcp -m comment --comment "default/web:http" -m tcp --dport 80'
        " -j DNAT --to-destination [2001:db8::1]:41234",
    ]


def test_portals_of_the_other_family_have_no_rules() -> None:
    portals = (Portal(PortalKind.CLUSTER_IP, "fd00::10", 80),)
    assert portal_rules(led_to(WEB_NAME, 41234, portals), "0.0.0.0", "192.0.2.10", NOBODY) == ()


def test_rules_come_in_the_order_of_opening_whatever_the_order_of_the_portals() -> None:
    reversed_portals = led_to(WEB.name, 41234, WEB.portals[::-1])
    assert portal_rules(reversed_portals, "0.0.0.0", "192.0.2.10", NOBODY) == portal_rules(
        WEB, "0.0.0.0", "192.0.2.10", NOBODY
    )


@pytest.mark.parametrize("bad", ['a"b', "a b", "a\nCOMMIT", "a\\", ""])
def test_a_name_that_could_end_a_rule_is_refused(bad: str) -> None:
    name = ServicePortName("default", "web", "http", Protocol.TCP)
    binding = led_to(ServicePortName(f"default{bad}" if bad else "dé", name.name, "", name.protocol), 1, WEB.portals)
    with pytest.raises(ObjectError, match="cannot be the comment"):
        portal_rules(binding, "0.0.0.0", "192.0.2.10", NOBODY)


CLUSTER_IP = Portal(PortalKind.CLUSTER_IP, "10.96.0.10", 80)
EXTERNAL_IP = Portal(PortalKind.EXTERNAL_IP, "203.0.113.5", 80)
BALANCER = Portal(PortalKind.LOAD_BALANCER_IP, "198.51.100.7", 80)
NODE_PORT = Portal(PortalKind.NODE_PORT, "", 30080)
ONE_NODE_PORT = Portal(PortalKind.NODE_PORT, "192.0.2.10", 30080)
PODS = LocalTraffic(networks=("10.244.1.0/24", "fd00:244::/64"))
BRIDGE = LocalTraffic(interface="cbr0")


def shown(
    portals: tuple[Portal, ...],
    internal: Target,
    external: Target,
    on_node: Target,
    ranges: tuple[str, ...] = (),
    local_traffic: LocalTraffic = PODS,
) -> list[str]:
    """Each rule as its chain and what matters of its text."""
    binding = PortalBinding(WEB_NAME, portals, internal, external, on_node, ranges)
    return [
        f"{rule.chain.removeprefix('KUBE-')}: {rule.spec}".replace(
            '-p tcp -m comment --comment "default/web:http', "WEB"
        )
        .replace('" -m tcp --dport', "")
        .replace("-j DNAT --to-destination 192.0.2.10:", "to host ")
        .replace("-j REDIRECT --to-ports ", "to ")
        .replace("-m addrtype --dst-type LOCAL", "LOCAL")
        .replace("-j REJECT --reject-with tcp-reset", "REJECT")
        .replace("-j ", "")
        for rule in portal_rules(binding, "0.0.0.0", "192.0.2.10", local_traffic)
    ]


@pytest.mark.parametrize(
    ("portals", "targets", "ranges", "local_traffic", "rules"),
    [
        pytest.param(
            (CLUSTER_IP, NODE_PORT),
            (REJECT, REJECT, REJECT),
            (),
            PODS,
            """
            PORTALS-FILTER: -d 10.96.0.10/32 WEB has no endpoints 80 REJECT
            PORTALS-FILTER-HOST: -d 10.96.0.10/32 WEB has no endpoints 80 REJECT
            PORTALS-FILTER: WEB has no endpoints 30080 LOCAL REJECT
            PORTALS-FILTER-HOST: WEB has no endpoints 30080 LOCAL REJECT
            """,
            id="no endpoints at all",
        ),
        pytest.param(
            (CLUSTER_IP, NODE_PORT),
            (DROP, serve(5001), serve(5001)),
            (),
            PODS,
            """
            PORTALS-FILTER: -d 10.96.0.10/32 WEB has no local endpoints 80 DROP
            PORTALS-FILTER-HOST: -d 10.96.0.10/32 WEB has no local endpoints 80 DROP
            NODEPORT-CONTAINER: WEB 30080 to 5001
            NODEPORT-HOST: WEB 30080 to host 5001
            NODEPORT-NON-LOCAL: WEB 5001 -m state --state NEW ACCEPT
            """,
            id="internal Local, none on this node",
        ),
        pytest.param(
            (CLUSTER_IP, EXTERNAL_IP, BALANCER, NODE_PORT),
            (serve(5000), serve(5001), serve(5000)),
            (),
            PODS,
            """
            PORTALS-CONTAINER: -d 10.96.0.10/32 WEB 80 to 5000
            PORTALS-HOST: -d 10.96.0.10/32 WEB 80 to host 5000
            PORTALS-CONTAINER: -s 10.244.1.0/24 -d 203.0.113.5/32 WEB 80 to 5000
            PORTALS-CONTAINER: -d 203.0.113.5/32 WEB 80 to 5001
            PORTALS-HOST: -d 203.0.113.5/32 WEB 80 to host 5000
            PORTALS-CONTAINER: -s 10.244.1.0/24 -d 198.51.100.7/32 WEB 80 to 5000
            PORTALS-CONTAINER: -d 198.51.100.7/32 WEB 80 to 5001
            PORTALS-HOST: -d 198.51.100.7/32 WEB 80 to host 5000
            NODEPORT-CONTAINER: -s 10.244.1.0/24 WEB 30080 to 5000
            NODEPORT-CONTAINER: WEB 30080 to 5001
            NODEPORT-HOST: WEB 30080 to host 5000
            NODEPORT-NON-LOCAL: WEB 5001 -m state --state NEW ACCEPT
            NODEPORT-NON-LOCAL: WEB 5000 -m state --state NEW ACCEPT
            """,
            id="external Local, some on this node",
        ),
        pytest.param(
            (CLUSTER_IP, EXTERNAL_IP, NODE_PORT),
            (serve(5000), DROP, serve(5000)),
            (),
            BRIDGE,
            """
            PORTALS-CONTAINER: -d 10.96.0.10/32 WEB 80 to 5000
            PORTALS-HOST: -d 10.96.0.10/32 WEB 80 to host 5000
            PORTALS-CONTAINER: -d 203.0.113.5/32 -i cbr0 WEB 80 to 5000
            PORTALS-HOST: -d 203.0.113.5/32 WEB 80 to host 5000
            PORTALS-FILTER: -d 203.0.113.5/32 WEB has no local endpoints 80 DROP
            NODEPORT-CONTAINER: -i cbr0 WEB 30080 to 5000
            NODEPORT-HOST: WEB 30080 to host 5000
            NODEPORT-NON-LOCAL: WEB 5000 -m state --state NEW ACCEPT
            PORTALS-FILTER: WEB has no local endpoints 30080 LOCAL DROP
            """,
            id="external Local, none on this node",
        ),
        pytest.param(
            (ONE_NODE_PORT,),
            (serve(5000), DROP, serve(5000)),
            (),
            NOBODY,
            """
            NODEPORT-HOST: -d 192.0.2.10/32 WEB 30080 to host 5000
            NODEPORT-NON-LOCAL: WEB 5000 -m state --state NEW ACCEPT
            PORTALS-FILTER: -d 192.0.2.10/32 WEB has no local endpoints 30080 DROP
            """,
            id="no Pod can be recognised; a node port of one address",
        ),
        pytest.param(
            (BALANCER, EXTERNAL_IP),
            (serve(5000), serve(5000), serve(5000)),
            ("10.0.0.0/8", "198.18.0.0/15", "fd00::/8"),
            PODS,
            """
            PORTALS-CONTAINER: -d 203.0.113.5/32 WEB 80 to 5000
            PORTALS-HOST: -d 203.0.113.5/32 WEB 80 to host 5000
            PORTALS-CONTAINER: -s 10.0.0.0/8 -d 198.51.100.7/32 WEB 80 to 5000
            PORTALS-CONTAINER: -s 198.18.0.0/15 -d 198.51.100.7/32 WEB 80 to 5000
            PORTALS-HOST: -s 10.0.0.0/8 -d 198.51.100.7/32 WEB 80 to host 5000
            PORTALS-HOST: -s 198.18.0.0/15 -d 198.51.100.7/32 WEB 80 to host 5000
            PORTALS-FILTER: -d 198.51.100.7/32 WEB traffic from outside loadBalancerSourceRanges 80 DROP
            PORTALS-FILTER-HOST: -d 198.51.100.7/32 WEB traffic from outside loadBalancerSourceRanges 80 DROP
            """,
            id="source ranges",
        ),
        pytest.param(
            (BALANCER,),
            (serve(5000), DROP, serve(5000)),
            ("10.0.0.0/8", "10.244.1.128/25", "192.0.2.0/24"),
            PODS,
            """
            PORTALS-CONTAINER: -s 10.244.1.0/24 -d 198.51.100.7/32 WEB 80 to 5000
            PORTALS-CONTAINER: -s 10.244.1.128/25 -d 198.51.100.7/32 WEB 80 to 5000
            PORTALS-HOST: -s 10.0.0.0/8 -d 198.51.100.7/32 WEB 80 to host 5000
            PORTALS-HOST: -s 10.244.1.128/25 -d 198.51.100.7/32 WEB 80 to host 5000
            PORTALS-HOST: -s 192.0.2.0/24 -d 198.51.100.7/32 WEB 80 to host 5000
            PORTALS-HOST: -s 198.51.100.7/32 -d 198.51.100.7/32 WEB 80 to host 5000
            PORTALS-FILTER: -s 10.0.0.0/8 -d 198.51.100.7/32 WEB has no local endpoints 80 DROP
            PORTALS-FILTER: -s 10.244.1.128/25 -d 198.51.100.7/32 WEB has no local endpoints 80 DROP
            PORTALS-FILTER: -s 192.0.2.0/24 -d 198.51.100.7/32 WEB has no local endpoints 80 DROP
            PORTALS-FILTER: -s 198.51.100.7/32 -d 198.51.100.7/32 WEB has no local endpoints 80 DROP
            PORTALS-FILTER: -d 198.51.100.7/32 WEB traffic from outside loadBalancerSourceRanges 80 DROP
            PORTALS-FILTER-HOST: -d 198.51.100.7/32 WEB traffic from outside loadBalancerSourceRanges 80 DROP
            """,
            id="source ranges with this node's Pods, and the node itself",
        ),
        pytest.param(
            (BALANCER,),
            (serve(5000), DROP, serve(5001)),
            ("198.18.0.0/15",),
            BRIDGE,
            """
            PORTALS-CONTAINER: -s 198.18.0.0/15 -d 198.51.100.7/32 -i cbr0 WEB 80 to 5001
            PORTALS-HOST: -s 198.18.0.0/15 -d 198.51.100.7/32 WEB 80 to host 5001
            PORTALS-FILTER: -s 198.18.0.0/15 -d 198.51.100.7/32 WEB has no local endpoints 80 DROP
            PORTALS-FILTER: -d 198.51.100.7/32 WEB traffic from outside loadBalancerSourceRanges 80 DROP
            PORTALS-FILTER-HOST: -d 198.51.100.7/32 WEB traffic from outside loadBalancerSourceRanges 80 DROP
            """,
            id="source ranges and Pods by interface",
        ),
        pytest.param(
            (BALANCER,),
            (serve(5000), serve(5000), REJECT),
            (),
            PODS,
            """
            PORTALS-CONTAINER: -s 10.244.1.0/24 -d 198.51.100.7/32 WEB 80 ACCEPT
            PORTALS-CONTAINER: -d 198.51.100.7/32 WEB 80 to 5000
            PORTALS-FILTER: -s 10.244.1.0/24 -d 198.51.100.7/32 WEB has no endpoints 80 REJECT
            PORTALS-FILTER-HOST: -d 198.51.100.7/32 WEB has no endpoints 80 REJECT
            """,
            id="this node's Pods are refused and others are not",
        ),
    ],
)
def test_rules_of_every_policy(
    portals: tuple[Portal, ...],
    targets: tuple[Target, Target, Target],
    ranges: tuple[str, ...],
    local_traffic: LocalTraffic,
    rules: str,
) -> None:
    assert shown(portals, *targets, ranges, local_traffic) == [line.strip() for line in rules.strip().splitlines()]


@pytest.mark.parametrize("ranges", [(), ("fd00::/8",), ("10.0.0.0/8", "0.0.0.0/0")])
def test_ranges_that_restrict_nothing(ranges: tuple[str, ...]) -> None:
    targets = (serve(5000),) * 3
    assert shown((BALANCER,), *targets, ranges) == shown((BALANCER,), *targets)


def test_a_network_of_every_address_is_not_printed() -> None:
    everybody = LocalTraffic(networks=("0.0.0.0/0",))
    specs = shown((BALANCER,), serve(5000), serve(5001), serve(5000), local_traffic=everybody)
    assert specs[0] == "PORTALS-CONTAINER: -d 198.51.100.7/32 WEB 80 to 5000"


def test_udp_listeners_are_reached_through_portals_only() -> None:
    name = ServicePortName("kube-system", "dns", "dns", Protocol.UDP)
    portal = Portal(PortalKind.CLUSTER_IP, "fd00::10", 53)
    binding = PortalBinding(name, (portal,), serve(5000), serve(5001), serve(5000))
    found = portal_rules(binding, "::", "2001:db8::10", NOBODY)
    match = '-p udp -m comment --comment "kube-system/dns:dns not through a portal" -m udp --dport'
    untranslated = "-m addrtype --dst-type LOCAL -m conntrack ! --ctstate DNAT"
    refused = "-j REJECT --reject-with icmp6-port-unreachable"
    assert found[-2:] == (
        Rule("filter", "KUBE-PORTALS-FILTER", f"{match} 5000 {untranslated} {refused}"),
        Rule("filter", "KUBE-PORTALS-FILTER", f"{match} 5001 {untranslated} {refused}"),
    )
    elsewhere = '-d 2001:db8::10/128 -p udp -m comment --comment "kube-system/dns:dns not through a portal"'
    assert portal_rules(binding, "2001:db8::10", "2001:db8::10", NOBODY)[-1].spec.startswith(elsewhere)
    nobody = PortalBinding(name, (portal,), REJECT, REJECT, REJECT)
    assert "not through" not in str(portal_rules(nobody, "::", "2001:db8::10", NOBODY))


def test_the_health_check_is_let_in() -> None:
    target = serve(5000)
    binding = PortalBinding(WEB_NAME, (CLUSTER_IP,), target, target, target, health_check_port=32000)
    assert portal_rules(binding, "0.0.0.0", "192.0.2.10", NOBODY)[-1] == Rule(
        "filter",
        "KUBE-NODEPORT-NON-LOCAL",
        '-p tcp -m comment --comment "default/web health check node port" -m tcp --dport 32000 -j ACCEPT',
    )
