"""Our tables of nf_tables in the kernel: written in one piece, compared, and removed. Blocking."""

import errno
import os
import socket
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import partial
from typing import Final

from userproxy.addresses import IPFamily
from userproxy.errors import KernelToolError
from userproxy.portals import netlink
from userproxy.portals.nftables.kernel import Kernel
from userproxy.portals.nftables.messages import GET_RULES, GET_TABLE, Message, listed_rule
from userproxy.portals.return_path.rules import Table, removed, request, written

Listing = tuple[tuple[str, bytes], ...]
"""Chain and expressions of each rule of a table, as the kernel lists them."""

_LACKING: Final = {errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EINVAL}


def write(family: IPFamily, tables: Sequence[Table], owner: socket.socket | None = None) -> tuple[Listing, ...]:
    """Have these tables stand, whatever had their names, and return how the kernel lists them.

    Raises KernelToolError where it refuses one, and nothing is changed then.
    """
    _perform(family, written(tables), owner)
    return tuple(map(listing, tables))


def remove(family: IPFamily, tables: Iterable[Table], owner: socket.socket | None = None) -> list[str]:
    """Remove those of the tables that exist; returns their names. Raises KernelToolError."""
    standing = [table for table in tables if exists(table)]
    _perform(family, [step for table in standing for step in removed(table)], owner)
    return [table.name for table in standing]


def exists(table: Table) -> bool:
    """Whether a table has this name. Raises KernelToolError."""
    try:
        with closing(netlink.netlink_socket(netlink.NETFILTER)) as asking:
            netlink.get(asking, GET_TABLE, request(table))
    except OSError as error:
        if error.errno in _LACKING:
            return False
        raise KernelToolError(f"nftables cannot be read: {error.strerror}") from error
    return True


def listing(table: Table) -> Listing:
    """The rules that the kernel has in a table of that name; none where there is no such table.

    Raises KernelToolError.
    """
    try:
        return netlink.settled(partial(_listed, table))
    except OSError as error:
        if error.errno in _LACKING:
            return ()
        raise KernelToolError(f"nftables cannot be read: {error.strerror}") from error


def _listed(table: Table) -> Listing:
    with closing(netlink.netlink_socket(netlink.NETFILTER)) as asking:
        return tuple(
            listed_rule(data, begin + netlink.NETFILTER_HEADER_SIZE, end)
            for data, bodies in netlink.dump(asking, GET_RULES, request(table))
            for begin, end in bodies
        )


def _perform(family: IPFamily, steps: Sequence[Message], owner: socket.socket | None) -> None:
    if not steps:
        return
    for number, code in Kernel(family).send(steps, over=owner):
        if code:
            raise KernelToolError(_refusal(code, steps[number - 1] if 0 < number <= len(steps) else None))


def _refusal(code: int, step: Message | None) -> str:
    reason = f"{os.strerror(code)}" + (f" ({step.what})" if step is not None else "")
    if code in (errno.EPERM, errno.EACCES):
        return "nftables can be written only with CAP_NET_ADMIN, which this process lacks"
    if code in _LACKING:
        return f"nftables lacks a part: {reason}. It takes Linux 5.11 and the module nft_socket"
    return f"nftables refuses a change: {reason}"
