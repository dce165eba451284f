from userproxy.model import (
    Admission,
    AdmissionRule,
    IPFamily,
    ListenerName,
    Portal,
    PortalAddress,
    PortalBinding,
    PortalKind,
    Protocol,
    ServicePortName,
    Target,
    TrafficClass,
    Verdict,
)
from userproxy.portals.local.admissions import admissions, portal_ips

WEB = ServicePortName("default", "web", "http", Protocol.TCP)
INTERNAL = Target(Verdict.SERVE)
EXTERNAL = Target(Verdict.SERVE, 0, TrafficClass.EXTERNAL)
REJECT = Target(Verdict.REJECT)
DROP = Target(Verdict.DROP)

NODE = "192.0.2.10"
OWN = ("127.0.0.1", "192.0.2.10")
PODS = ("10.244.1.0/24",)

CLUSTER_IP = Portal(PortalKind.CLUSTER_IP, "10.96.0.10", 80)
EXTERNAL_IP = Portal(PortalKind.EXTERNAL_IP, "203.0.113.5", 80)
BALANCED = Portal(PortalKind.LOAD_BALANCER_IP, "198.51.100.7", 80)
NODE_PORT = Portal(PortalKind.NODE_PORT, "", 30080)
EVERYTHING = (CLUSTER_IP, EXTERNAL_IP, BALANCED, NODE_PORT)

BY_INTERNAL = ListenerName(WEB)
BY_EXTERNAL = ListenerName(WEB, IPFamily.IPV4, TrafficClass.EXTERNAL)
ALL_INTERNAL = Admission((AdmissionRule("", BY_INTERNAL),), (AdmissionRule("", BY_INTERNAL),))


def at(ip: str, port: int = 80) -> PortalAddress:
    return PortalAddress(ip, Protocol.TCP, port)


def of(
    *portals: Portal,
    internal: Target = INTERNAL,
    external: Target = INTERNAL,
    on_node: Target = INTERNAL,
    ranges: tuple[str, ...] = (),
) -> dict[PortalAddress, Admission]:
    binding = PortalBinding(WEB, portals, internal, external, on_node, ranges)
    return dict(admissions(binding, IPFamily.IPV4, NODE, OWN, PODS))


def test_everybody_is_let_in_at_each_portal_and_at_node_ports_on_each_own_address() -> None:
    found = of(*EVERYTHING)
    assert found.keys() == {
        at("10.96.0.10"),
        at("203.0.113.5"),
        at("198.51.100.7"),
        at("127.0.0.1", 30080),
        at("192.0.2.10", 30080),
    }
    assert found[at("10.96.0.10")] == ALL_INTERNAL


def test_a_node_port_with_an_address_is_there_alone() -> None:
    assert of(Portal(PortalKind.NODE_PORT, "192.0.2.10", 30080)).keys() == {at("192.0.2.10", 30080)}


def test_portals_of_the_other_family_are_not_listened_on() -> None:
    assert of(Portal(PortalKind.CLUSTER_IP, "fd00::10", 80), CLUSTER_IP).keys() == {at("10.96.0.10")}
    binding = PortalBinding(WEB, (CLUSTER_IP, Portal(PortalKind.CLUSTER_IP, "fd00::10", 80)), REJECT, REJECT, REJECT)
    assert portal_ips(binding, IPFamily.IPV6) == {"fd00::10"}


def test_own_pods_and_processes_are_told_from_everybody_else() -> None:
    found = of(*EVERYTHING, external=EXTERNAL)
    assert found[at("10.96.0.10")] == ALL_INTERNAL
    assert found[at("192.0.2.10", 30080)] == Admission(
        (AdmissionRule("", BY_INTERNAL),),
        (AdmissionRule("10.244.1.0/24", BY_INTERNAL), AdmissionRule("", BY_EXTERNAL)),
    )


def test_whom_a_local_policy_leaves_without_endpoint_is_not_answered() -> None:
    found = of(NODE_PORT, external=DROP)
    assert found[at("192.0.2.10", 30080)] == Admission(
        (AdmissionRule("", BY_INTERNAL),),
        (AdmissionRule("10.244.1.0/24", BY_INTERNAL), AdmissionRule("", None)),
    )


def test_where_everybody_is_refused_nobody_listens() -> None:
    assert of(*EVERYTHING, internal=REJECT, external=REJECT, on_node=REJECT) == {}
    nobody = Admission((AdmissionRule("", None),), (AdmissionRule("", None),))
    assert of(CLUSTER_IP, internal=DROP) == {at("10.96.0.10"): nobody}


def test_ranges_restrict_load_balancer_ips_alone() -> None:
    found = of(BALANCED, EXTERNAL_IP, external=EXTERNAL, ranges=("10.244.1.128/25", "198.18.0.0/15"))
    assert found[at("198.51.100.7")] == Admission(
        (AdmissionRule("10.244.1.128/25", BY_INTERNAL), AdmissionRule("198.18.0.0/15", BY_INTERNAL)),
        (
            AdmissionRule("10.244.1.128/25", BY_INTERNAL),
            AdmissionRule("10.244.1.128/25", BY_EXTERNAL),
            AdmissionRule("198.18.0.0/15", BY_EXTERNAL),
        ),
    )
    assert [rule.network for rule in found[at("203.0.113.5")].others] == ["10.244.1.0/24", ""]


def test_a_range_with_the_node_in_it_lets_in_the_load_balancer_ip_too() -> None:
    found = of(BALANCED, ranges=("192.0.2.0/24",))
    assert [rule.network for rule in found[at("198.51.100.7")].host] == ["192.0.2.0/24", "198.51.100.7/32"]
