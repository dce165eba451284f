"""What a client's next connection would meet, in the words of the API; e2e has what happens then."""

from typing import cast

import pytest
from msgspec.structs import replace

from tests.admin.planes import DNS, ONE, TWO, WEB, Control, Data
from userproxy.addresses import IPFamily
from userproxy.admin.explaining import NotExplainedError, explained, service_ports_of
from userproxy.admin.parameters import Filter
from userproxy.admin.rows import Planes
from userproxy.model import Endpoint, ListenerName, Portal, PortalKind, Protocol, ServicePortName, TrafficClass, Verdict
from userproxy.model.data_plane import DataPlane
from userproxy.model.reports import Choice, EndpointFigures, ListenerFigures
from userproxy.proxier.inspect.explanation import Explanation
from userproxy.proxier.inspect.reports import ControlPlane

METRICS = ServicePortName("default", "web", "metrics", Protocol.TCP)
CLIENT = "10.2.0.9"


def explanation(name: ServicePortName = WEB, port: int = 80, verdict: Verdict = Verdict.SERVE) -> Explanation:
    listener = ListenerName(name) if verdict is Verdict.SERVE else None
    portal = Portal(PortalKind.CLUSTER_IP, "10.96.0.10", port)
    return Explanation(
        name, IPFamily.IPV4, "iptables", portal, TrafficClass.INTERNAL, "", False, verdict, "why", listener, ()
    )


class Asked:
    """Two Services, of which `web` has two ports."""

    def __init__(self, *explanations: Explanation) -> None:
        self.control, self.data = Control(), Data()
        self.control.add(WEB, ONE, TWO)
        self.control.add(METRICS, ONE, port=9100)
        self.control.add(DNS, ip="10.96.0.53", port=53)
        self.control.explanations = list(explanations)
        self.data.choices[ListenerName(WEB)] = Choice(ONE, "its turn")

    @property
    def planes(self) -> Planes:
        return Planes(cast(ControlPlane, self.control), cast(DataPlane, self.data))


async def test_whom_the_client_gets_is_the_data_planes_choice() -> None:
    found = await explained(Asked(explanation()).planes, Filter("default", "web", client=CLIENT, port="http"))
    assert (found.service, found.port, found.portal, found.kind) == (
        "default/web",
        "http",
        "10.96.0.10:80",
        "ClusterIP",
    )
    assert (found.verdict, found.reason, found.next, found.next_reason) == ("serve", "why", str(ONE), "its turn")


async def test_where_nobody_is_chosen_the_client_is_refused_and_told_why() -> None:
    asked = Asked(explanation())
    asked.data.choices[ListenerName(WEB)] = Choice(None, "all are drained")
    found = await explained(asked.planes, Filter("default", "web", client=CLIENT, port="80"))
    assert (found.verdict, found.reason, found.next) == ("reject", "all are drained", None)


async def test_without_a_listener_nobody_is_asked() -> None:
    found = await explained(
        Asked(explanation(verdict=Verdict.DROP)).planes, Filter("default", "web", client=CLIENT, port="http")
    )
    assert (found.verdict, found.reason, found.next) == ("drop", "why", None)


async def test_endpoints_that_are_passed_over_now_say_so() -> None:
    asked = Asked()
    asked.control.explanations = [replace(explanation(), endpoints=asked.control.listed[WEB])]
    figures = (EndpointFigures(ONE), EndpointFigures(TWO, passed_over_seconds=3.0))
    asked.data.figures = (ListenerFigures(ListenerName(WEB), Verdict.SERVE, 40000, 0, 0, endpoints=figures),)
    found = await explained(asked.planes, Filter("default", "web", client=CLIENT, port="http"))
    assert [each.reason for each in found.endpoints] == ["", "passed over for 3.0 s after a failed dial"]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"service": "nope"}, "no Service default/nope is served here"),
        ({"port": "81"}, "default/web has no port 81, but http (TCP), metrics (TCP)"),
        ({"to": Endpoint("fd00::1", 80)}, "a client at 10.2.0.9 cannot reach fd00::1, of another address family"),
        ({"to": Endpoint("10.9.9.9", 80)}, "10.9.9.9:80 is no portal of default/web, which has 10.96.0.10:80, "),
        ({"to": Endpoint("10.9.9.9", 0)}, "10.9.9.9 is no portal of default/web, which has 10.96.0.10:80, "),
        ({}, "say which port of default/web is meant: http (TCP), metrics (TCP)"),
        (
            {"client": "fd00::9", "port": "http"},
            "default/web is not served over IPv6, which a client at fd00::9 speaks",
        ),
        ({"port": "metrics"}, "default/web:metrics is just being changed: ask again"),
    ],
)
async def test_what_has_no_answer_is_one_sentence(asked: dict[str, object], sentence: str) -> None:
    found = Asked(explanation(), explanation(METRICS, 9100))
    if asked.get("client"):
        found.control.explanations = []
    question = {"namespace": "default", "service": "web", "client": CLIENT, **asked}
    with pytest.raises(NotExplainedError) as caught:
        await explained(found.planes, Filter(**question))  # type: ignore[arg-type]
    assert str(caught.value).startswith(sentence)


async def test_the_ports_of_a_service_are_in_order() -> None:
    assert await service_ports_of(Asked().planes, WEB.service) == [WEB, METRICS]
    assert await service_ports_of(Asked().planes, DNS.service) == [DNS]
