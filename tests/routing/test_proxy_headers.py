"""What annotations about PROXY headers come to."""

import pytest
from msgspec.structs import replace

from userproxy.model import (
    BalancerAccess,
    PortSpec,
    Problem,
    ProblemKind,
    Protocol,
    ProxyProtocol,
    Service,
    ServiceState,
)
from userproxy.routing.proxy_headers import balancer_access, header_problems
from userproxy.routing.services import Scope, service_ports

HTTP = PortSpec("http", Protocol.TCP, 80)
DNS = PortSpec("dns", Protocol.UDP, 53)
WEB = Service(
    "default",
    "web",
    type="LoadBalancer",
    cluster_ips=("10.96.0.10",),
    load_balancer_ips=("198.51.100.7", "2001:db8::7"),
    ports=(HTTP, DNS),
    source_ranges=("192.0.2.0/24", "fd00::/8"),
)
V1 = ProxyProtocol.V1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, BalancerAccess(("198.51.100.7", "2001:db8::7"), ("192.0.2.0/24", "fd00::/8"))),
        ({"accepts_proxy": None}, None),
        ({"source_ranges": ()}, None),
        ({"source_ranges": ("0.0.0.0/0", "::/0")}, None),
        ({"load_balancer_ips": ()}, None),
        (
            {"load_balancer_ips": (), "balancer_ips": ("198.51.100.9",), "source_ranges": ("192.0.2.0/24", "::/0")},
            BalancerAccess(("198.51.100.9",), ("192.0.2.0/24",)),
        ),
    ],
)
def test_who_may_use_the_load_balancer(changes: dict[str, object], expected: BalancerAccess | None) -> None:
    service = replace(WEB, **{"accepts_proxy": V1, **changes})
    assert balancer_access(service, HTTP) == expected
    assert balancer_access(service, DNS) is None
    routed = service_ports(ServiceState(service), Scope(trusts_proxies=True))
    assert [port.balancer_access for port in routed.ports] == [expected, None]


def sentences(service: Service, *, trusts_proxies: bool = True) -> list[tuple[str, bool]]:
    problems = list(header_problems(service, trusts_proxies=trusts_proxies))
    assert {problem.kind for problem in problems} <= {ProblemKind.BAD_ANNOTATION}
    return [(problem.text, problem.here) for problem in problems]


def test_what_asks_for_no_header_has_no_problem() -> None:
    assert sentences(WEB, trusts_proxies=False) == []
    assert sentences(replace(WEB, ports=(HTTP,), sends_proxy=V1, accepts_proxy=V1)) == []
    assert sentences(replace(WEB, ports=(HTTP,), sends_proxy=V1), trusts_proxies=False) == []


def test_datagrams_have_no_headers() -> None:
    assert sentences(replace(WEB, sends_proxy=V1)) == [
        (
            "default/web: userproxy.io/proxy-protocol: ignored for UDP port 53, since the PROXY protocol is for TCP",
            False,
        )
    ]
    both = "userproxy.io/proxy-protocol and userproxy.io/accept-proxy-protocol"
    assert both in sentences(replace(WEB, sends_proxy=V1, accepts_proxy=V1))[0][0]


def test_where_nobody_is_trusted_no_header_is_read() -> None:
    service = replace(WEB, ports=(HTTP,), accepts_proxy=V1)
    assert sentences(service, trusts_proxies=False) == [
        (
            "default/web: userproxy.io/accept-proxy-protocol: no header is read, since nobody's is believed: this "
            "node's --trusted-proxies names no network",
            True,
        )
    ]
    routed = service_ports(ServiceState(service), Scope())
    assert [type(problem) for problem in routed.left_out] == [Problem]
    assert service_ports(ServiceState(service), Scope(trusts_proxies=True)).left_out == ()
