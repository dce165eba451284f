"""CPU time of a process tree, and statistics over rounds.

The CPU time of a process is read from its POSIX CPU-time clock (``clock_getcpuclockid(3)``). That is utime +
stime of ``/proc/PID/stat``, threads that have ended included, but in nanoseconds where ``stat`` has ticks of
10 ms, and where ``task/*/schedstat`` forgets ended threads. Children that a process has waited for are added
from ``stat``.
"""

import ctypes
import errno
import os
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

_SETTLE_INTERVAL = 0.02
_SETTLED_CPU = 0.0002


class MeasureError(Exception):
    """A proxy cannot be measured, because it has ended or its clock cannot be read."""


class ProcessStat(Struct, frozen=True):
    """The fields of ``/proc/PID/stat`` that we read (proc_pid_stat(5)); `reaped_ticks` is cutime + cstime."""

    pid: int
    parent: int
    reaped_ticks: int


class Sample(Struct, frozen=True):
    """What one proxy took in one round: metric -> value in the metric's unit."""

    round: int
    proxy: str
    values: dict[str, float]


class Spread(Struct, frozen=True):
    """Median, least and greatest value over the rounds."""

    median: float
    least: float
    greatest: float


def parse_stat(text: str) -> ProcessStat:
    """One ``/proc/PID/stat``. Its command name may hold blanks and parentheses: fields count from the last one."""
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return ProcessStat(int(head.split(" ", 1)[0]), int(fields[1]), int(fields[13]) + int(fields[14]))


def tree(root: int, stats: Iterable[ProcessStat]) -> list[ProcessStat]:
    """`root` and all its descendants among `stats`; empty where `root` is not among them."""
    children: dict[int, list[ProcessStat]] = {}
    found: list[ProcessStat] = []
    for stat in stats:
        children.setdefault(stat.parent, []).append(stat)
        if stat.pid == root:
            found.append(stat)
    for stat in found:
        found.extend(children.get(stat.pid, ()))
    return found


def cpu_seconds(root: int) -> float:
    """CPU seconds that the process `root` and its descendants have used, user and system together.

    Raises MeasureError where the process has ended.
    """
    while members := tree(root, _all_stats()):
        reaped = sum(member.reaped_ticks for member in members) / os.sysconf("SC_CLK_TCK")
        try:
            return reaped + sum(_process_clock(member.pid) for member in members)
        except ProcessLookupError:
            continue  # one has ended between the two looks, and its parent has its time now
    raise MeasureError(f"process {root} has ended")


def settled_cpu_seconds(root: int, limit: float = 2.0) -> float:
    """`cpu_seconds` once the tree is at rest: what a proxy still has to close belongs to the load before."""
    deadline = time.monotonic() + limit
    before = cpu_seconds(root)
    while True:
        time.sleep(_SETTLE_INTERVAL)
        now = cpu_seconds(root)
        if now - before < _SETTLED_CPU or time.monotonic() > deadline:
            return now
        before = now


def resident_bytes(root: int) -> int:
    """Resident memory of a process and its descendants, pages that they share counted for each. Raises MeasureError."""
    return sum(_resident(pid) for pid in pids(root))


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return 0


def descriptors(root: int) -> int:
    """Open descriptors of a process and its descendants. Raises MeasureError."""
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids(root))


def pids(root: int) -> list[int]:
    """A process and its descendants. Raises MeasureError where it has ended."""
    members = tree(root, _all_stats())
    if not members:
        raise MeasureError(f"process {root} has ended")
    return [member.pid for member in members]


def _all_stats() -> Iterable[ProcessStat]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            yield parse_stat(text)


def _process_clock(pid: int) -> float:
    clock = ctypes.c_int()
    error = ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock))
    if error == errno.ESRCH:
        raise ProcessLookupError(error, os.strerror(error))
    if error:
        raise MeasureError(f"the CPU clock of process {pid} cannot be had: {os.strerror(error)}")
    try:
        return time.clock_gettime(clock.value)
    except OSError as caught:
        if caught.errno == errno.EINVAL:  # what the clock of a process that is gone gives
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from caught
        raise MeasureError(f"the CPU clock of process {pid} cannot be read: {caught.strerror}") from caught


def spread(values: Sequence[float]) -> Spread:
    """Median, least and greatest of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def spreads(samples: Iterable[Sample], metrics: Iterable[str]) -> dict[str, dict[str, Spread]]:
    """Proxy -> metric -> spread over the rounds; a metric that was never taken is absent."""
    values: dict[str, dict[str, list[float]]] = {}
    for sample in samples:
        row = values.setdefault(sample.proxy, {})
        for metric, value in sample.values.items():
            row.setdefault(metric, []).append(value)
    wanted = tuple(metrics)
    return {proxy: {metric: spread(row[metric]) for metric in wanted if metric in row} for proxy, row in values.items()}


def ratios(samples: Sequence[Sample], subject: str, metrics: Sequence[str]) -> dict[str, dict[str, Spread]]:
    """Peer -> metric -> spread of subject / peer, each ratio taken within one round.

    Within a round both met the same machine, so what slows the machine for a while cancels out. Rounds in
    which either of the two has no value are left out.
    """
    taken = {(sample.round, sample.proxy): sample.values for sample in samples}
    peers = dict.fromkeys(sample.proxy for sample in samples if sample.proxy != subject)
    result: dict[str, dict[str, Spread]] = {}
    for peer in peers:
        rounds = [
            (taken[number, subject], values)
            for (number, proxy), values in taken.items()
            if proxy == peer and (number, subject) in taken
        ]
        row = {metric: _ratios_of(rounds, metric) for metric in metrics}
        result[peer] = {metric: spread(found) for metric, found in row.items() if found}
    return result


def _ratios_of(rounds: Iterable[tuple[Mapping[str, float], Mapping[str, float]]], metric: str) -> list[float]:
    return [ours[metric] / theirs[metric] for ours, theirs in rounds if metric in ours and theirs.get(metric)]
