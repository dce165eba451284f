"""Taking away what a proxy has left, of both families and by every driver."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from userproxy.errors import KernelToolError
from userproxy.model import IPFamily
from userproxy.portals.drivers import DRIVERS
from userproxy.portals.host import may_write_rules
from userproxy.portals.interface import Cleaned, PortalDriver
from userproxy.portals.lease import Lease, LeaseError
from userproxy.portals.return_path import cleanup as return_path


def cleanup_all(*, force: bool = False, first: Callable[[], Cleaned] = Cleaned) -> Cleaned:
    """Remove what is ours, of both families and every driver. Blocking.

    `first` is called before all else that is done, once it is known that no userproxy runs: it ends what holds rules.
    A variant that the kernel lacks is told of and passed over; a machine without ip6tables or without IPv6 is passed
    over in silence. Raises LeaseError where a userproxy runs whose rules they are, or one is being stopped that still
    serves clients by them, and nothing is touched then; with `force` they are removed all the same. Raises
    KernelToolError where rules cannot be touched at all.
    """
    if not may_write_rules():
        raise KernelToolError("rules can be read and removed only with CAP_NET_ADMIN, which this process does not have")
    with ExitStack() as stack:
        for family in IPFamily:
            if not force:
                stack.enter_context(_leased(family))
        cleaned = first()
        for family in IPFamily:
            for driver in DRIVERS.values():
                cleaned += driver.clean_up(family)
            cleaned += return_path.clean_up(family)
        return cleaned


def clean_up_after_others(family: IPFamily, serving: PortalDriver, *, keeps_return_path: bool = False) -> Cleaned:
    """Remove what earlier processes have left by other drivers than the one that serves now, or elsewhere by that one.

    So too the way back for clients' addresses, unless this process keeps it. Established connections go on. Blocking;
    the caller has the lease.
    """
    cleaned = serving.clean_up_elsewhere()
    if not keeps_return_path:
        cleaned += return_path.clean_up(family, sparing=True)
    for name, driver in DRIVERS.items():
        if name != serving.name:
            cleaned += driver.clean_up(family, sparing=True)
    return cleaned


@contextmanager
def _leased(family: IPFamily) -> Iterator[None]:
    """Meanwhile nobody else begins to write."""
    lease = Lease(family)
    lease.take()
    try:
        if lease.is_watched():
            raise LeaseError(f"a userproxy that is being stopped still serves clients by its {family} portals")
        yield
    finally:
        lease.release()
