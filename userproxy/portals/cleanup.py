"""Taking away what a proxy has left, of both families and both variants of iptables."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import structlog
from msgspec import Struct

from userproxy.errors import KernelToolError
from userproxy.model import IPFamily
from userproxy.portals.host import may_write_rules
from userproxy.portals.iptables.rules import CHAINS
from userproxy.portals.iptables.tables import Tables
from userproxy.portals.iptables.variant import Tools, Variant, installed, legacy_tables
from userproxy.portals.lease import OwnedError, Ownership
from userproxy.portals.programs import kernel_lacks_it

log = structlog.get_logger()


class Cleaned(Struct, frozen=True):
    """What a cleanup has done: a sentence for each thing `said`, and for each thing that it had to leave (`failed`)."""

    said: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()

    def __add__(self, other: "Cleaned") -> "Cleaned":
        return Cleaned(self.said + other.said, self.failed + other.failed)


def cleanup_all(*, force: bool = False) -> Cleaned:
    """Remove our rules and chains of both families from both variants. Blocking.

    A variant that the kernel lacks is told of and passed over; a machine without ip6tables or without IPv6 is passed
    over in silence. Raises OwnedError where a userproxy runs whose rules they are, or one is being stopped that still
    serves clients by them, and nothing is touched then; with `force` they are removed all the same. Raises
    KernelToolError where rules cannot be touched at all.
    """
    if not may_write_rules():
        raise KernelToolError("rules can be read and removed only with CAP_NET_ADMIN, which this process does not have")
    with ExitStack() as stack:
        for family in IPFamily:
            if not force:
                stack.enter_context(_owned(family))
        return _cleanup(IPFamily.IPV4) + _cleanup(IPFamily.IPV6)


@contextmanager
def _owned(family: IPFamily) -> Iterator[None]:
    """Meanwhile nobody else begins to write."""
    ownership = Ownership(family)
    ownership.take()
    try:
        if ownership.is_watched():
            raise OwnedError(f"a userproxy that is being stopped still serves clients by its {family} portals")
        yield
    finally:
        ownership.release()


def _cleanup(family: IPFamily) -> Cleaned:
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
