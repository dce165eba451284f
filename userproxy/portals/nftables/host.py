"""Whether the driver can work on a node, and what it has left there. Blocking."""

from typing import Final

from userproxy.errors import KernelToolError
from userproxy.model import IPFamily, LocalTraffic
from userproxy.portals.host import may_write_rules
from userproxy.portals.interface import Cleaned
from userproxy.portals.nftables.changes import creation, transaction
from userproxy.portals.nftables.kernel import Kernel, NoNftablesError
from userproxy.portals.nftables.layout import TABLE_NAMES, layout
from userproxy.portals.nftables.ledger import Edits
from userproxy.portals.nftables.messages import remove_table

_SOME_ADDRESS: Final = {IPFamily.IPV4: "192.0.2.1", IPFamily.IPV6: "2001:db8::1"}
"""For documentation (RFC 5737, RFC 3849)."""


def unusable(family: IPFamily) -> str | None:
    """Why there can be no table here; None if there can. The kernel is asked for one, and takes it back."""
    if not may_write_rules():
        return "nftables can be written only with the capability CAP_NET_ADMIN, which this process does not have"
    kernel = Kernel(family)
    wanted = layout(family, "", _SOME_ADDRESS[family], LocalTraffic())
    try:
        anew = [remove_table(family)] if kernel.read().exists else []
        return kernel.refusal([*anew, *transaction(wanted, creation(wanted), Edits())])
    except KernelToolError as error:
        return str(error)


def clean_up(family: IPFamily) -> Cleaned:
    """Remove our table of a family, if there is one."""
    try:
        return Cleaned(tuple(remove_ours(family)))
    except NoNftablesError as error:
        return Cleaned(absent=(f"nftables: {error}",) if family is IPFamily.IPV4 else ())
    except KernelToolError as error:
        return Cleaned(failed=(f"nftables, table {TABLE_NAMES[family]}: not removed: {error}",))


def remove_ours(family: IPFamily) -> list[str]:
    """Remove the table of a family, whoever wrote it; a sentence for it. Raises KernelToolError."""
    kernel = Kernel(family)
    if not kernel.read().exists:
        return []
    kernel.commit([remove_table(family)])
    return [f"nftables: removed the table {TABLE_NAMES[family]}"]
