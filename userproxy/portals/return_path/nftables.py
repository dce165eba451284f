"""The rules of the way back in nf_tables. Blocking."""

import socket
from collections.abc import Iterable, Iterator, Sequence
from itertools import product

from userproxy.addresses import SOCKET_FAMILIES, IPFamily
from userproxy.errors import KernelToolError
from userproxy.portals import netlink
from userproxy.portals.return_path import tables
from userproxy.portals.return_path.marks import Mark
from userproxy.portals.return_path.rules import (
    BRIDGE,
    NAME,
    PodBridge,
    Table,
    bridge_table,
    bridge_table_name,
    marking_table,
    owned_by,
)
from userproxy.portals.return_path.tables import Listing


class NftablesRules:
    """Those of one address family, in the network namespace of the calling thread.

    With `guard` they belong to a socket of ours where the kernel knows such tables, and go with it. Without, packets
    for our sockets go to the clients in the moment after a flush by others, and these reset what they do not know.
    """

    name = "nftables"
    announced = True

    def __init__(self, family: IPFamily, *, guard: bool = True) -> None:
        self._family = family
        self._guard = guard
        self.owner: socket.socket | None = None
        """What the tables go with."""
        self._wanted: tuple[Mark, tuple[PodBridge, ...]] | None = None
        self._standing: dict[Table, Listing] = {}
        self._refusal = ""

    def write(self, mark: Mark, bridges: Sequence[PodBridge]) -> str:
        """Have all of it stand; returns why answers within `bridges` do not rise, empty if they do.

        Nothing is written that stands already. Raises KernelToolError where packets cannot be marked at all.
        """
        if self._wanted != (mark, tuple(bridges)) or not self.stands():
            self._refusal = self._write_anew(mark, bridges)
            self._wanted = (mark, tuple(bridges))
        return self._refusal

    def stands(self) -> bool:
        """Whether what was written last is still there. Raises KernelToolError."""
        return all(tables.listing(table) == listed for table, listed in self._standing.items())

    def close(self) -> None:
        """Let go of what belongs to us; the rest stands."""
        owner, self.owner = self.owner, None
        if owner is not None:
            owner.close()

    def _write_anew(self, mark: Mark, bridges: Sequence[PodBridge]) -> str:
        errors: list[KernelToolError] = []
        owners = (self._owning(), None) if self._guard else (None,)
        for owner, wanted in product(owners, list(_attempts(self._family, mark, bridges))):
            named = _for(owner, wanted)
            try:
                listed = tables.write(self._family, named, owner)
            except KernelToolError as error:
                errors.append(error)
                continue
            self._forget_others(owner, named)
            self._standing = dict(zip(named, listed, strict=True))
            return str(errors[0]) if bridges and len(wanted) == 1 else ""
        raise errors[-1]

    def _owning(self) -> socket.socket:
        if self.owner is None:
            self.owner = netlink.netlink_socket(netlink.NETFILTER)
            self.owner.bind((0, 0))
        return self.owner

    def _forget_others(self, owner: socket.socket | None, standing: Iterable[Table]) -> None:
        """Remove what we or others have written before by other names."""
        names = {table.name for table in standing}
        if owner is not None:
            mine = _for(owner, _named(self._family))
            tables.remove(self._family, [table for table in mine if table.name not in names], owner)
        tables.remove(self._family, [table for table in _named(self._family) if table.name not in names])


def remove(family: IPFamily) -> list[str]:
    """Remove the tables of a family, whoever wrote them; their names. Raises KernelToolError."""
    return tables.remove(family, _named(family))


def leftovers(family: IPFamily) -> list[str]:
    """The names of our tables of a family that exist. Raises KernelToolError."""
    return [table.name for table in _named(family) if tables.exists(table)]


def _attempts(family: IPFamily, mark: Mark, bridges: Sequence[PodBridge]) -> Iterator[list[Table]]:
    """What to write, the best first: a kernel may lack what defragments (nft_tproxy), or tables of bridges."""
    for defragments, with_bridges in product((True, False), (True, False) if bridges else (False,)):
        marking = marking_table(family, mark, defragments=defragments)
        yield [marking, bridge_table(family, bridges)] if with_bridges else [marking]


def _named(family: IPFamily) -> tuple[Table, Table]:
    return Table(SOCKET_FAMILIES[family], NAME), Table(BRIDGE, bridge_table_name(family))


def _for(owner: socket.socket | None, wanted: Iterable[Table]) -> list[Table]:
    return list(wanted) if owner is None else owned_by(owner.getsockname()[0], wanted)
