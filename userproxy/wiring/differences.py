"""What is wanted against what the kernel has: rules, listeners and node ports."""

import asyncio
from collections.abc import Sequence
from typing import Final

from userproxy.admin.items import Differences
from userproxy.admin.rows import Planes, portal_text
from userproxy.model import IPFamily, ProblemKind, Verdict
from userproxy.model.reports import ListenerFigures
from userproxy.pace import Pace
from userproxy.portals.netlink.sock_diag import ports_listened_on, why_not

_NOT_SERVED: Final = frozenset(
    {ProblemKind.PORT_CONFLICT, ProblemKind.PORTALS_REFUSED, ProblemKind.OUT_OF_DESCRIPTORS, ProblemKind.HEALTH_CHECK}
)
"""Problems that leave something unserved that is wanted."""


async def compared(planes: Planes) -> Differences:
    """All differences: of portals, of listeners, and what is known not to be served."""
    missing: list[str] = []
    left_over: list[str] = []
    unread: list[str] = []
    for each in await planes.control.differences():
        label = f"{each.family} {each.driver}"
        missing += [f"{label}: {line}" for line in each.found.missing]
        left_over += [f"{label}: {line}" for line in each.found.left_over]
        unread += [f"{label}: {each.failure}"] if each.failure else []
    missing += await _waiting(planes)
    missing += sorted(problem.text for problem in planes.control.problems() if problem.kind in _NOT_SERVED)
    figures = await planes.data.listeners()
    for family in IPFamily:
        try:
            missing += await asyncio.to_thread(_deaf, family, figures)
        except OSError as error:
            unread.append(f"{family}: sockets cannot be listed: {why_not(error)}")
    return Differences(tuple(missing), tuple(left_over), tuple(unread))


async def _waiting(planes: Planes) -> list[str]:
    """The portals that no sync has yet made stand as they are wanted."""
    found: list[str] = []
    pace = Pace()
    for name in sorted(planes.control.names()):
        for report in planes.control.service_ports(name):
            found += [
                f"{report.family} {report.driver}: portal {portal_text(each.portal, report.family)}/{name.protocol}"
                f" of {name}: not in sync"
                for each in report.portals
                if not each.in_sync
            ]
        await pace.keep()
    return found


def _deaf(family: IPFamily, figures: Sequence[ListenerFigures]) -> list[str]:
    """The listeners that are to serve, and whose port nobody listens on. Blocking. Raises OSError."""
    served = {
        (each.listener.service_port.protocol, each.local_port): each.listener
        for each in figures
        if each.listener.family is family and each.verdict is Verdict.SERVE and each.local_port
    }
    heard = ports_listened_on(family, served.keys())
    return [
        f"listener {listener}: nobody listens on {protocol} port {port}"
        for (protocol, port), listener in served.items()
        if (protocol, port) not in heard
    ]
