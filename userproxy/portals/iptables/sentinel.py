"""How a driver notices that others have changed its tables, in either variant of iptables."""

import typing
from functools import partial

from userproxy.addresses import SOCKET_FAMILIES, IPFamily
from userproxy.portals.iptables.canary import Canary
from userproxy.portals.iptables.chains import CHAINS, jump_rules
from userproxy.portals.iptables.changes import Change
from userproxy.portals.iptables.variant import Variant
from userproxy.portals.netlink.ruleset import Ruleset
from userproxy.portals.netlink.transactions import Touched

_OF_INTEREST = {
    (table, name)
    for table, chains in CHAINS.items()
    for name in ("", *chains, *(jump.rule.chain for jump in jump_rules() if jump.rule.table == table))
}
"""Our tables, chains, and those that lead to ours: another program may put rules before our jumps."""


class Sentinel(typing.Protocol):
    """Told by those who read and write the tables what is known of them. `Mark` is what it takes to know it later."""

    def mark(self, *, thorough: bool) -> typing.Any:
        """The tables as they are now: taken before they are written, or, and then `thorough`, before they are read."""

    def verified(self, mark: typing.Any) -> None:
        """They were as they should be, read after `mark`."""

    def wrote(self, mark: typing.Any, change: Change) -> None:
        """`change` has just been written after `mark`."""


class _Unwatched:
    def mark(self, *, thorough: bool) -> None:
        """Nothing is to be known later."""

    def verified(self, mark: None) -> None:
        """Nobody asks."""

    def wrote(self, mark: None, change: Change) -> None:
        """Nobody asks."""


UNWATCHED: Sentinel = _Unwatched()
"""For whoever reads and writes but once, such as a cleanup."""


class NftSentinel:
    """For tables of nf_tables: a mark is a generation of the ruleset."""

    def __init__(self, ruleset: Ruleset) -> None:
        self._ruleset = ruleset

    def mark(self, *, thorough: bool) -> int | None:  # noqa: ARG002 - nothing is left out
        return self._ruleset.generation()

    def verified(self, mark: int | None) -> None:
        self._ruleset.verified(mark)

    def wrote(self, mark: int | None, change: Change) -> None:
        """Each table commits on its own."""
        self._ruleset.wrote(mark, len(change))


def make_ruleset(family: IPFamily) -> Ruleset:
    """What of nf_tables concerns the iptables driver of a family."""
    return Ruleset(partial(concerns, SOCKET_FAMILIES[family]))


def concerns(family: int, touched: Touched) -> bool:
    """Whether a transaction may have changed what the driver keeps, or put something before it."""
    return touched.family == family and (touched.table, touched.name) in _OF_INTEREST


def make_sentinel(family: IPFamily, variant: Variant, ruleset: Ruleset) -> NftSentinel | Canary:
    """What tells of changes of the tables of `variant`."""
    return NftSentinel(ruleset) if variant is Variant.NFT else Canary(family)
