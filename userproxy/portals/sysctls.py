"""What kube-proxy's ``conntrack`` settings say of the kernel's connection tracking, written as kube-proxy 1.36 does.

Source of names, values and order: ``cmd/kube-proxy/app/conntrack.go``.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog

from userproxy.model import ConntrackSettings

log = structlog.get_logger()

_MOST_ENTRIES: Final = 1 << 20
"""However many processors there are: a whole table of so many entries takes some 300 MB."""

_SYSCTLS: Final = "proc/sys/net/netfilter"
_HASH_SIZE: Final = "sys/module/nf_conntrack/parameters/hashsize"
_MAX: Final = "nf_conntrack_max"


def conntrack_sysctls(settings: ConntrackSettings, processors: int) -> Iterator[tuple[str, int]]:
    """Names under ``net.netfilter`` and values; what is to be left alone is not among them."""
    if settings.max_per_core:
        scaled = settings.max_per_core * processors
        yield _MAX, _MOST_ENTRIES if scaled > _MOST_ENTRIES else max(scaled, settings.min)
    for name, seconds in (
        ("tcp_timeout_established", settings.tcp_established_timeout),
        ("tcp_timeout_close_wait", settings.tcp_close_wait_timeout),
        ("udp_timeout", settings.udp_timeout),
        ("udp_timeout_stream", settings.udp_stream_timeout),
    ):
        if seconds:
            yield f"nf_conntrack_{name}", max(1, int(seconds))
    if settings.tcp_be_liberal:
        yield "nf_conntrack_tcp_be_liberal", 1


def set_conntrack(settings: ConntrackSettings, root: Path = Path("/"), *, asked: bool = False) -> None:
    """Write what differs, in the network namespace of the calling thread; one line says what cannot be written.

    That line is a warning where these settings were `asked` for. The number of entries and the size of their hash table
    are the machine's: the kernel lets only its first network namespace set them. Blocking; `root` is where
    ``/proc`` and ``/sys`` are.
    """
    refused: dict[str, list[str]] = {}
    for name, value in conntrack_sysctls(settings, os.cpu_count() or 1):
        try:
            _write(root / _SYSCTLS / name, value)
            if name == _MAX:
                _write(root / _HASH_SIZE, value // 4, only_more=True)
        except OSError as error:
            refused.setdefault(error.strerror or str(error), []).append(f"{name}={value}")
    if refused:
        tell = log.warning if asked else log.info
        tell("Settings of conntrack stay as they are, because this process may not write them", refused=refused)


def _write(file: Path, value: int, *, only_more: bool = False) -> None:
    """Raises OSError where `file` cannot be read or written."""
    try:
        present = int(file.read_text())
    except ValueError as error:
        raise OSError(0, f"{file} is not a number") from error
    if present == value or (only_more and present > value):
        return
    file.write_text(f"{value}\n")
    log.debug("Set conntrack", v=1, file=str(file), value=value, before=present)
