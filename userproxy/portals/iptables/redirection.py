"""Whether rules can lead packets to listeners by REDIRECT, or need DNAT to the node's address.

The kernel redirects a packet to the first address of the interface that it came in by, and drops it where there is
none (nf_nat_redirect). That is so where Pods have links of their own without addresses: Calico, AWS VPC CNI, GKE. DNAT
works there, too. But connections by DNAT end when the node's address goes, and REDIRECT answers from the interface
that was asked, whatever routes by source there are; so it is kept wherever it works.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog

log = structlog.get_logger()

_KEEP_SECONDS: Final = 600.0
"""How long DNAT stays after the last link without an address: who makes such links makes more of them."""

_MOST_NAMES: Final = 3


class Redirection:
    """Decides for one family, from what links there are."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._needed_at: float | None = None
        """When a link without an address was last seen, if that is not long ago."""

    @property
    def works(self) -> bool:
        """Whether packets reach listeners by REDIRECT wherever they come in, as far as has been looked."""
        return self._needed_at is None

    def look(self, without_address: Sequence[str], family: str) -> None:
        """Decide anew: these links have no address. Told to the log when it is another decision."""
        worked = self.works
        if without_address:
            self._needed_at = self._clock()
        elif self._needed_at is not None and self._clock() - self._needed_at >= _KEEP_SECONDS:
            self._needed_at = None
        if worked and not self.works:
            log.info(
                "Rules say DNAT in place of REDIRECT, which drops what comes in by links without an address",
                family=family,
                links=", ".join(without_address[:_MOST_NAMES]),
                number=len(without_address),
            )
        elif self.works and not worked:
            log.info("Rules say REDIRECT again: all links have addresses", family=family)
