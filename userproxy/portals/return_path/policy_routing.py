"""Policy routing that makes marked packets local: three rules and a route of one address family, over netlink.

What these say, with the default mark:

    ip rule add pref 4 iif lo fwmark 0x1000/0x1000 goto 6
    ip rule add pref 5 fwmark 0x1000/0x1000 lookup 61117
    ip rule add pref 6 nop
    ip route add local default dev lo table 61117

Only what arrives is made local. The kernel looks from ``lo`` when it checks how it would answer a packet's source
(rp_filter with src_valid_mark, or a rule with ``fib``), and that has to find the usual route. Layout and numbers:
linux/fib_rules.h, linux/rtnetlink.h. All functions block, and raise OSError.
"""

import errno
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from functools import partial
from typing import Final

from msgspec import Struct

from userproxy.addresses import SOCKET_FAMILIES, IPFamily
from userproxy.portals import netlink
from userproxy.portals.local.routes import OURS
from userproxy.portals.netlink.rtnetlink import SOL_NETLINK, STRICT_CHECK
from userproxy.portals.return_path.marks import Mark

NEW_RULE: Final = 32  # RTM_NEWRULE
DELETE_RULE: Final = 33
_GET_RULE: Final = 34
_NEW_ROUTE: Final = 24
_DELETE_ROUTE: Final = 25
_GET_ROUTE: Final = 26
_CREATE: Final = 0x400
_EXCLUSIVE: Final = 0x200

TABLES: Final = range(61_117, 61_137)
"""Numbers of tables that we take; the first that nobody uses."""
_PRIORITY: Final = 5
"""Before whatever others say of a Pod's packets: the AWS VPC CNI begins at 10, Cilium at 9."""

_TO_TABLE: Final = 1  # FR_ACT_TO_TBL
_GOTO: Final = 2
_NOP: Final = 3
_FRA_IIFNAME: Final = 3
_FRA_GOTO: Final = 4
_FRA_PRIORITY: Final = 6
_FRA_FWMARK: Final = 10
_FRA_TABLE: Final = 15
_FRA_FWMASK: Final = 16
_FRA_PROTOCOL: Final = 21

_LOCAL: Final = 2  # RTN_LOCAL
_HOST: Final = 254  # RT_SCOPE_HOST
_LOOPBACK: Final = 1
_RTA_OIF: Final = 4
_RTA_TABLE: Final = 15

_HEADER: Final = struct.Struct("=8BI")  # struct fib_rule_hdr and struct rtmsg
_NUMBER: Final = struct.Struct("=I")


class Rule(Struct, frozen=True, order=True):
    """A rule of policy routing: what it asks for, and where it leads. `ours` is whether it has our mark of origin."""

    priority: int
    action: int
    mark: int = 0
    mask: int = 0
    table: int = 0
    goto: int = 0
    interface: str = ""
    ours: bool = False


def wanted_rules(mark: Mark, table: int) -> tuple[Rule, ...]:
    """The rules that make what arrives with `mark` be looked up in `table`. Pure."""
    before, itself, after = _PRIORITY - 1, _PRIORITY, _PRIORITY + 1
    return (
        Rule(before, _GOTO, mark.value, mark.mask, goto=after, interface="lo", ours=True),
        Rule(itself, _TO_TABLE, mark.value, mark.mask, table=table, ours=True),
        Rule(after, _NOP, ours=True),
    )


def rules(family: IPFamily) -> list[Rule]:
    """All rules of a family that we can read, those of others too."""
    return netlink.settled(lambda: [_rule(data, begin, end) for data, begin, end in _listed(family, _GET_RULE)])


def local_defaults(family: IPFamily, tables: Iterable[int] = TABLES) -> dict[int, bool]:
    """Those of the tables that have a route, and whether all that they have is our local default."""
    found: dict[int, bool] = {}
    for asked in tables:
        for data, begin, end in netlink.settled(partial(_routes, family, asked)):
            _, length, _, _, _, protocol, _, kind, _ = _HEADER.unpack_from(data, begin)
            if _value(data, netlink.attributes(data, begin + _HEADER.size, end), _RTA_TABLE) == asked:
                found[asked] = found.get(asked, True) and (length, protocol, kind) == (0, OURS, _LOCAL)
    return found


def free_table(standing: Iterable[Rule], routes: dict[int, bool]) -> int | None:
    """The first of TABLES that nobody else uses; None where all are taken. Pure."""
    theirs = {rule.table for rule in standing if not rule.ours} | {table for table, ours in routes.items() if not ours}
    return next((table for table in TABLES if table not in theirs), None)


def stands(family: IPFamily, mark: Mark, table: int) -> bool:
    """Whether rules and route are as they should be."""
    ours = {rule for rule in rules(family) if rule.ours}
    return ours == set(wanted_rules(mark, table)) and local_defaults(family, [table]).get(table, False)


def make_stand(family: IPFamily, mark: Mark, table: int) -> None:
    """Have them stand, and no others of ours. The route comes first: without it marked packets go their usual way."""
    routes = local_defaults(family)
    ours = {rule for rule in rules(family) if rule.ours}
    wanted = wanted_rules(mark, table)
    if not routes.get(table):
        _perform(_NEW_ROUTE, _CREATE | _EXCLUSIVE, [_route(family, table)], errno.EEXIST)
    _perform(DELETE_RULE, 0, [_written(family, rule) for rule in sorted(ours.difference(wanted))], errno.ENOENT)
    missing = [_written(family, rule) for rule in wanted if rule not in ours]
    _perform(NEW_RULE, _CREATE | _EXCLUSIVE, missing, errno.EEXIST)
    _remove_routes(family, [other for other, whole in routes.items() if whole and other != table])


def remove(family: IPFamily) -> int:
    """Remove all rules and routes of ours, whoever made them; how many there were."""
    ours = sorted(rule for rule in rules(family) if rule.ours)
    routes = [table for table, whole in local_defaults(family).items() if whole]
    _perform(DELETE_RULE, 0, [_written(family, rule) for rule in ours], errno.ENOENT)
    _remove_routes(family, routes)
    return len(ours) + len(routes)


def _remove_routes(family: IPFamily, tables: Iterable[int]) -> None:
    _perform(_DELETE_ROUTE, 0, [_route(family, table) for table in tables], errno.ESRCH)


def _routes(family: IPFamily, table: int) -> list[tuple[bytes, int, int]]:
    return list(_listed(family, _GET_ROUTE, _attribute(_RTA_TABLE, table)))


def _listed(family: IPFamily, kind: int, more: bytes = b"") -> Iterator[tuple[bytes, int, int]]:
    """The messages of a dump: datagram, begin and end. None where a table is asked for that there is not."""
    request = _HEADER.pack(SOCKET_FAMILIES[family], *[0] * 8) + more
    with (
        closing(netlink.netlink_socket(netlink.ROUTE)) as asking,
        suppress(FileNotFoundError),
    ):  # there is no such table
        with suppress(OSError):  # older kernels list the routes of all tables
            asking.setsockopt(SOL_NETLINK, STRICT_CHECK, 1)
        for data, places in netlink.dump(asking, kind, request):
            for begin, end in places:
                if data[begin] == SOCKET_FAMILIES[family]:
                    yield data, begin, end


def _rule(data: bytes, begin: int, end: int) -> Rule:
    *_, table, _, _, action, _ = _HEADER.unpack_from(data, begin)
    found = netlink.attributes(data, begin + _HEADER.size, end)
    number = partial(_value, data, found)
    protocol = data[found[_FRA_PROTOCOL][0]] if _FRA_PROTOCOL in found else 0
    return Rule(
        number(_FRA_PRIORITY),
        action,
        number(_FRA_FWMARK),
        number(_FRA_FWMASK),
        (number(_FRA_TABLE) or table) if action == _TO_TABLE else 0,
        number(_FRA_GOTO),
        netlink.text_of(data, found, _FRA_IIFNAME),
        protocol == OURS,
    )


def _value(data: bytes, found: dict[int, netlink.Place], kind: int) -> int:
    return int(_NUMBER.unpack_from(data, found[kind][0])[0]) if kind in found else 0


def _written(family: IPFamily, rule: Rule) -> bytes:
    body = _HEADER.pack(SOCKET_FAMILIES[family], 0, 0, 0, 0, 0, 0, rule.action, 0)
    body += _attribute(_FRA_PRIORITY, rule.priority) + netlink.attribute(_FRA_PROTOCOL, bytes([OURS]))
    if rule.mask:
        body += _attribute(_FRA_FWMARK, rule.mark) + _attribute(_FRA_FWMASK, rule.mask)
    if rule.interface:
        body += netlink.text_attribute(_FRA_IIFNAME, rule.interface)
    if rule.table:
        body += _attribute(_FRA_TABLE, rule.table)
    return body + (_attribute(_FRA_GOTO, rule.goto) if rule.goto else b"")


def _route(family: IPFamily, table: int) -> bytes:
    scope = _HOST if family is IPFamily.IPV4 else 0
    body = _HEADER.pack(SOCKET_FAMILIES[family], 0, 0, 0, 0, OURS, scope, _LOCAL, 0)
    return body + _attribute(_RTA_TABLE, table) + _attribute(_RTA_OIF, _LOOPBACK)


def _attribute(kind: int, value: int) -> bytes:
    return netlink.attribute(kind, _NUMBER.pack(value))


def _perform(kind: int, flags: int, bodies: Iterable[bytes], unless: int) -> None:
    """One message at a time: there are a handful."""
    with closing(netlink.netlink_socket(netlink.ROUTE)) as asking:
        for body in bodies:
            asking.send(netlink.message(kind, netlink.REQUEST | netlink.ACK | flags, body))
            _wait(asking, unless)


def _wait(asking: socket.socket, unless: int) -> None:
    data = asking.recv(netlink.CHUNK)
    for answer, begin, _ in netlink.messages(data):
        if answer == netlink.ERROR:
            netlink.raise_for_code(data, begin, unless)
