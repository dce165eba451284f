"""Programs of this node that listen on every address, and so on addresses of portals that routes make local. Blocking.

A program is named by what /proc tells of it, which is nothing where userproxy has a process namespace of its own.
"""

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

from userproxy.model import IPFamily, Protocol
from userproxy.portals.netlink.sock_diag import wildcard_sockets

LocalPort: TypeAlias = tuple[Protocol, int]

_PROCESSES: Final = Path("/proc")


def wildcard_listeners(family: IPFamily, ports: Collection[LocalPort] | None = None) -> Mapping[LocalPort, str]:
    """The ports on which programs hear every address of `family`, and which ones: those of `ports`, or all but our own.

    Raises OSError where the kernel does not tell.
    """
    found = wildcard_sockets(family, ports)
    inodes_found = {inode for inodes in found.values() for inode in inodes}
    links = _links(inodes_found)
    own = set(_held(_PROCESSES / "self", links)) if ports is None else set()
    names = programs_with(inodes_found)
    return {
        port: ", ".join(sorted({names[inode] for inode in inodes - own if inode in names}))
        for port, inodes in sorted(found.items())
        if inodes - own
    }


def _links(inodes: Collection[int]) -> Mapping[str, int]:
    return {f"socket:[{inode}]": inode for inode in inodes}


def programs_with(inodes: Collection[int]) -> Mapping[int, str]:
    """The programs that have these sockets, as ``sshd (process 712)``, as far as this process may see them."""
    wanted = _links(inodes)
    found: dict[int, str] = {}
    for process in _PROCESSES.iterdir() if wanted else ():
        if process.name.isdecimal():
            for inode in _held(process, wanted):
                with suppress(OSError):
                    found.setdefault(inode, f"{(process / 'comm').read_text().strip()} (process {process.name})")
    return found


def _held(process: Path, wanted: Mapping[str, int]) -> Iterable[int]:
    with suppress(OSError):  # it is another user's, or has ended
        for each in (process / "fd").iterdir():
            with suppress(OSError):
                inode = wanted.get(str(each.readlink()))
                if inode is not None:
                    yield inode
