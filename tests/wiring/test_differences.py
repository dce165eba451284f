"""What is wanted against what the kernel has, beside what drivers say of their own."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from msgspec import structs

from tests.admin.planes import DNS, ONE, WEB, Control, Data
from userproxy.admin.items import Differences
from userproxy.admin.rows import Planes
from userproxy.model import Differences as Found
from userproxy.model import IPFamily, ListenerName, Problem, ProblemKind, Verdict
from userproxy.model.reports import ListenerFigures
from userproxy.proxier.inspect.reports import FamilyDifferences
from userproxy.wiring.differences import compared


class Families(Control):
    """A control plane whose drivers have found something."""

    def __init__(self, *found: FamilyDifferences) -> None:
        super().__init__()
        self._found = found

    async def differences(self) -> tuple[FamilyDifferences, ...]:
        return self._found


@contextmanager
def bound(kind: socket.SocketKind, *, listening: bool = True) -> Iterator[int]:
    """The number of a port of this machine that is bound."""
    with socket.socket(socket.AF_INET, kind) as made:
        made.bind(("127.0.0.1", 0))
        if listening and kind is socket.SOCK_STREAM:
            made.listen()
        yield made.getsockname()[1]


async def test_where_all_is_as_it_should_be_nothing_is_said() -> None:
    control, data = Control(), Data()
    control.add(WEB, ONE)
    with bound(socket.SOCK_STREAM) as web, bound(socket.SOCK_DGRAM) as dns:
        data.figures = (
            ListenerFigures(ListenerName(WEB), Verdict.SERVE, web),
            ListenerFigures(ListenerName(DNS), Verdict.SERVE, dns),
            ListenerFigures(ListenerName(WEB, IPFamily.IPV6), Verdict.REJECT, 1),
        )
        assert await compared(Planes(control, data)) == Differences((), (), ())


async def test_what_drivers_find_is_told_by_family() -> None:
    found = Families(
        FamilyDifferences(IPFamily.IPV4, "nftables", Found(("set x",), ("element y",))),
        FamilyDifferences(IPFamily.IPV6, "nftables", failure="no netlink"),
    )
    assert await compared(Planes(found, Data())) == Differences(
        ("IPv4 nftables: set x",), ("IPv4 nftables: element y",), ("IPv6 nftables: no netlink",)
    )


async def test_portals_that_wait_for_a_sync_are_missing() -> None:
    control = Control()
    control.add(WEB, ONE)
    (port,) = control.ports[WEB]
    waiting = structs.replace(port, portals=tuple(structs.replace(each, in_sync=False) for each in port.portals))
    control.ports[WEB] = (waiting,)
    (line,) = (await compared(Planes(control, Data()))).missing
    assert line == "IPv4 iptables: portal 10.96.0.10:80/TCP of default/web:http: not in sync"


async def test_a_listener_that_nobody_hears_is_missing() -> None:
    data = Data()
    with bound(socket.SOCK_STREAM, listening=False) as port:
        data.figures = (ListenerFigures(ListenerName(WEB), Verdict.SERVE, port),)
        (line,) = (await compared(Planes(Control(), data))).missing
    assert line == f"listener default/web:http: nobody listens on TCP port {port}"


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        (ProblemKind.PORT_CONFLICT, ("taken",)),
        (ProblemKind.PORTALS_REFUSED, ("taken",)),
        (ProblemKind.BAD_ANNOTATION, ()),
    ],
)
async def test_problems_count_where_something_is_not_served(kind: ProblemKind, missing: tuple[str, ...]) -> None:
    control = Control()
    control.found = frozenset({Problem(WEB.service, kind, "taken")})
    assert (await compared(Planes(control, Data()))).missing == missing
