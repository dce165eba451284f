"""Removal of all that makes answers to clients' addresses come back, whoever made it. Blocking."""

from userproxy.addresses import IPFamily
from userproxy.errors import KernelToolError
from userproxy.portals.interface import Cleaned
from userproxy.portals.local.routes import LocalRoutes
from userproxy.portals.netlink import rtnetlink
from userproxy.portals.netlink.sock_diag import connections
from userproxy.portals.return_path import nftables, policy_routing, xtables


def clean_up(family: IPFamily, *, sparing: bool = False) -> Cleaned:
    """Remove rules, then policy routing, of one address family.

    With `sparing` nothing is removed while connections from clients' addresses go on.
    """
    try:
        if sparing and _found(family) and (users := _users(family)):
            return Cleaned(in_use=(f"the way back for {users} connections from clients' addresses",))
        said = [f"nftables: removed the table {name}" for name in nftables.remove(family)]
        said += xtables.remove(family)
        if policy_routing.remove(family):
            said.append(f"routing: removed the {family} rules and the table for packets to transparent sockets")
    except KernelToolError as error:
        return Cleaned(failed=(f"{family}, the way back for clients' addresses: not removed: {error}",))
    except OSError as error:
        return Cleaned(failed=(f"{family}, policy routing: not removed: {error.strerror or error}",))
    return Cleaned(tuple(said))


def _found(family: IPFamily) -> bool:
    return bool(nftables.leftovers(family)) or any(rule.ours for rule in policy_routing.rules(family))


def _users(family: IPFamily) -> int:
    """How many TCP connections have a local address that is neither this host's nor a portal's that is bound."""
    ours = {address.ip for address in rtnetlink.addresses(family)} | LocalRoutes(family).standing()
    return sum(each.address not in ours for each in connections(family))
