"""The descriptors that a test has opened, whatever becomes of those that earlier tests have left open."""

import os
from contextlib import suppress
from pathlib import Path

_OURS = Path("/proc/self/fd")


class OwnDescriptors:
    """Its length is how many descriptors are open that were not when this was made."""

    def __init__(self) -> None:
        self._foreign = _listed()

    def __len__(self) -> int:
        return len(_listed() - self._foreign)


def _listed() -> set[tuple[str, str]]:
    """Number and target of each: a socket's target has its inode, so a number that is used again is another one."""
    found = set()
    for entry in os.scandir(_OURS):
        with suppress(FileNotFoundError):
            target = os.readlink(entry.path)
            if not target.endswith("/fd"):  # the one that this is read from
                found.add((entry.name, target))
    return found
