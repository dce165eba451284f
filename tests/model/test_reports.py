"""Reports travel between processes as messages, and quantiles are read off counts."""

import msgspec
import pytest

from userproxy.model import Endpoint, IPFamily, ListenerName, Protocol, ServicePortName, Verdict
from userproxy.model.reports import (
    Attempt,
    Batch,
    ConnectionPage,
    ConnectionReport,
    ConnectionState,
    Decision,
    DialFailure,
    DialTimes,
    EndpointFigures,
    ListenerFigures,
    Outcome,
    ProcessFigures,
    Query,
    SocketAddress,
)

LISTENER = ListenerName(ServicePortName("shop", "web", "http", Protocol.TCP))
POD = Endpoint("10.1.0.2", 8080)
CLIENT = SocketAddress("10.9.0.1", 40_000)
PORTAL = SocketAddress("10.96.0.1", 80)


@pytest.mark.parametrize(
    "value",
    [
        Query("shop", "web", endpoint=POD, states=(ConnectionState.OPEN,), outcomes=(Outcome.RETRIED,)),
        ConnectionPage(
            (ConnectionReport(7, LISTENER, CLIENT, PORTAL, POD, ConnectionState.OPEN, 1.0, 2.0, 3.0, 4.0),), 7
        ),
        Batch[Decision](
            (Decision(1.0, LISTENER, CLIENT, None, POD, Outcome.SERVED, tried=(Attempt(POD, "Connection refused"),)),),
            3,
        ),
        ListenerFigures(
            LISTENER, Verdict.SERVE, retries={DialFailure.REFUSED: 2}, endpoints=(EndpointFigures(POD, total=1),)
        ),
        ProcessFigures(1, 20, 1024, evicted={Protocol.TCP: 1}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_report_survives_a_message(value: msgspec.Struct) -> None:
    kind = Batch[Decision] if isinstance(value, Batch) else type(value)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=kind) == value


def test_addresses_print_as_everywhere() -> None:
    assert str(SocketAddress("2001:db8::1", 80)) == "[2001:db8::1]:80"


@pytest.mark.parametrize(
    ("counts", "part", "seconds"),
    [
        ((0, 0, 0), 0.5, None),
        ((4, 0, 0), 0.5, 0.5),
        ((4, 4, 0), 0.5, 1.0),
        ((4, 4, 0), 0.75, 2.0),
        ((0, 0, 3), 0.5, 3.0),
        ((0, 8, 0), 1.0, 3.0),
    ],
)
def test_quantiles_are_interpolated_within_their_bounds(
    counts: tuple[int, ...], part: float, seconds: float | None
) -> None:
    assert DialTimes((1.0, 3.0), counts).quantile(part) == seconds


@pytest.mark.parametrize(
    ("query", "admits"),
    [
        (Query(), True),
        (Query("shop"), True),
        (Query("other"), False),
        (Query(service="web"), True),
        (Query(service="api"), False),
        (Query(port="http"), True),
        (Query(port=""), False),
        (Query(protocol=Protocol.TCP), True),
        (Query(protocol=Protocol.UDP), False),
        (Query("shop", "web", "http", Protocol.TCP, IPFamily.IPV4), True),
    ],
)
def test_a_field_that_is_not_given_admits_all_service_ports(query: Query, admits: bool) -> None:
    assert query.admits(LISTENER.service_port) is admits
    assert query.admits_listener(LISTENER) is admits


def test_listeners_of_a_family_and_endpoints_with_any_port() -> None:
    assert not Query(family=IPFamily.IPV6).admits_listener(LISTENER)
    assert [Query(endpoint=each).admits_endpoint(POD) for each in (None, POD, Endpoint(POD.ip, 0))] == [True] * 3
    assert not Query(endpoint=Endpoint(POD.ip, 1)).admits_endpoint(POD)
    assert not Query(endpoint=Endpoint("10.1.0.3", 0)).admits_endpoint(POD)
    assert Query().admits_endpoint(None)
    assert not Query(endpoint=POD).admits_endpoint(None)
