"""What the kernel lets this process do about rules (capabilities(7))."""

from pathlib import Path
from typing import Final

_CAP_NET_ADMIN: Final = 12  # linux/capability.h


def may_write_rules() -> bool:
    """Whether this thread has CAP_NET_ADMIN, without which no iptables program reads or writes anything."""
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1)
    return False
