"""What this process may do: capabilities, and the number of files that it may open."""

import os
import resource
from collections.abc import Iterator
from typing import Final

from userproxy.config import PortalMode, Settings
from userproxy.doctor.findings import Outcome, fail, ok, warn
from userproxy.forwarding.descriptors import PER_CONNECTION, RESERVE
from userproxy.portals.host import (
    CAP_NET_ADMIN,
    CAP_NET_BIND_SERVICE,
    CAP_NET_RAW,
    first_unprivileged_port,
    has_capability,
)

_FEW: Final = 16_384
_TOO_FEW: Final = 1_024


def capabilities(settings: Settings) -> Iterator[Outcome]:
    """The capabilities that the portal drivers need (docs/drivers.md)."""
    who = f"user {os.geteuid()}"
    if settings.portals is PortalMode.NONE:
        yield ok(f"{who}: --portals none needs no capability")
        return
    if not has_capability(CAP_NET_ADMIN):
        yield fail(
            f"{who} has no CAP_NET_ADMIN, so no portal can be written",
            "run as root, or give the container the capability NET_ADMIN; --portals none needs none",
        )
        return
    lacking = [
        f"{name}, which {what} needs"
        for name, number, mode, what in (
            ("CAP_NET_RAW", CAP_NET_RAW, PortalMode.IPTABLES, "the legacy variant of iptables"),
            ("CAP_NET_BIND_SERVICE", CAP_NET_BIND_SERVICE, PortalMode.LOCAL, "--portals local"),
        )
        if settings.portals in (PortalMode.AUTO, mode) and not has_capability(number)
        if number != CAP_NET_BIND_SERVICE or first_unprivileged_port() > 1
    ]
    for each in lacking:
        yield warn(
            f"{who} has CAP_NET_ADMIN, and no {each}", "add the capability unless another driver or variant serves"
        )
    if not lacking:
        yield ok(f"{who} has the capabilities of --portals {settings.portals}")


def descriptors(_settings: Settings) -> Iterator[Outcome]:
    """The hard limit of open files, to which a start raises its soft one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        yield ok("any number of files may be open")
        return
    text = f"{hard} files may be open, enough for some {max(0, hard - RESERVE) // PER_CONNECTION} connections"
    advice = "raise it: LimitNOFILE= in a systemd unit, --ulimit nofile= or the runtime's own setting for a container"
    if hard < _TOO_FEW:
        yield fail(text, advice)
    elif hard < _FEW:
        yield warn(text, advice)
    else:
        yield ok(text)
