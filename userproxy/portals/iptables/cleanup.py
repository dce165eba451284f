"""Taking away what an earlier process has left in the tables of either variant of iptables."""

import structlog

from userproxy.errors import KernelToolError
from userproxy.model import IPFamily
from userproxy.portals.interface import Cleaned
from userproxy.portals.iptables.chains import CHAINS
from userproxy.portals.iptables.tables import Tables
from userproxy.portals.iptables.variant import Tools, Variant, installed, legacy_tables
from userproxy.portals.programs import kernel_lacks_it

log = structlog.get_logger()


def clean_up(family: IPFamily) -> Cleaned:
    """Remove our rules and chains of one family from both variants. Blocking.

    A variant that the kernel lacks is told of and passed over; ip6tables or IPv6, where missing, in silence.
    """
    try:
        found = installed(family)
    except KernelToolError as error:
        if family is IPFamily.IPV6:
            log.debug("No IPv6 tables to clean up", v=2, err=str(error))
            return Cleaned()
        return Cleaned(failed=(str(error),))
    cleaned = Cleaned()
    for tools in found:
        if tools.variant is Variant.NFT or legacy_tables(family) & CHAINS.keys():
            cleaned += _clean(tools)
    return cleaned


def _clean(tools: Tools) -> Cleaned:
    tables = Tables(tools)
    try:
        tables.read()
    except KernelToolError as error:
        text = f"{tools.label}: left as it is, because it cannot be read: {error}"
        if not kernel_lacks_it(error):
            return Cleaned(failed=(text,))
        return Cleaned() if tools.family is IPFamily.IPV6 else Cleaned((text,))
    try:
        return Cleaned(tuple(tables.remove()))
    except KernelToolError as error:
        return Cleaned(failed=(f"{tools.label}: not removed: {error}",))
