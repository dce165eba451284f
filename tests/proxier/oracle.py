"""What is to be, worked out from everything at once: what edits of the state are compared with."""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from userproxy.model import Portal, Problem, ProblemKind, Protocol, ServicePort, ServicePortName
from userproxy.proxier.wanted import Wanted


class Granted(Struct, frozen=True):
    """Who has which portals, the claims that lost, and to whom load balancers lead beside them."""

    portals: Mapping[ServicePortName, tuple[Portal, ...]]
    conflicts: tuple[Problem, ...]
    owners: Mapping[tuple[str, int, Protocol], ServicePortName]
    destinations: Mapping[tuple[str, int, Protocol], ServicePortName]


def grant_portals(wanted: Iterable[ServicePort]) -> Granted:
    """Every portal to one service port: that of the oldest Service. Without a creation time they are the youngest."""
    owners: dict[tuple[str, int, Protocol], ServicePortName] = {}
    portals: dict[ServicePortName, tuple[Portal, ...]] = {}
    conflicts: list[Problem] = []
    balanced: dict[tuple[str, int, Protocol], ServicePortName] = {}
    for service_port in sorted(wanted, key=lambda each: (not each.created, each.created, each.name)):
        name = service_port.name
        granted = []
        for portal in service_port.portals:
            key = (portal.ip, portal.port, name.protocol)
            owner = owners.get(key)
            if owner is None:
                owners[key] = name
                granted.append(portal)
            elif owner != name:
                text = f"{name}: {portal} ({name.protocol}) is not served, because {owner} has it"
                conflicts.append(Problem(name.service, ProblemKind.PORT_CONFLICT, text))
        portals[name] = tuple(granted)
        for ip, port in ((each.ip, each.port) for each in service_port.balancers):
            balanced.setdefault((ip, port, name.protocol), name)
    return Granted(portals, tuple(conflicts), owners, {**balanced, **owners})


def granted_by(wanted: Wanted) -> Granted:
    """What edited state says of the same, in the oracle's order."""
    ages = sorted(wanted.ports.values(), key=lambda each: (not each.created, each.created, each.name))
    return Granted(
        {port.name: wanted.portals(port.name) for port in ages},
        tuple(problem for port in ages for problem in wanted.conflicts(port.name)),
        dict(wanted.owners),
        dict(wanted.destinations),
    )


def wanted_of(ports: Iterable[ServicePort]) -> Wanted:
    wanted = Wanted()
    for port in ports:
        wanted.put(port)
    return wanted
