"""The kernel's settings of the network, in the network namespace of the calling thread."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

_NET: Final = Path("/proc/sys/net")


def sysctl(name: str) -> int | None:
    """The number that ``net.NAME`` has, with slashes; None where there is no such setting."""
    return read_number(_NET / name)


def read_number(file: Path) -> int | None:
    """The number in a file, None where there is none."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def by_link(setting: str, names: Iterable[str]) -> dict[str, int]:
    """What counts on each link of a setting of IPv4: the greater of the link's own and that of ``all``."""
    everywhere = sysctl(f"ipv4/conf/all/{setting}") or 0
    return {name: max(everywhere, sysctl(f"ipv4/conf/{name}/{setting}") or 0) for name in names}
