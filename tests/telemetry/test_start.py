"""Phases of the start, in the log."""

import time

from structlog.testing import capture_logs

from userproxy.addresses import IPFamily
from userproxy.telemetry.start import Start, process_start


def test_phases_have_the_seconds_since_the_process_began() -> None:
    start = Start([IPFamily.IPV4])
    with capture_logs() as logs:
        start.reached("settings loaded", files=2)
        start.synced(IPFamily.IPV4)
        start.synced(IPFamily.IPV4)
    first, last = logs
    assert (first["event"], first["phase"], first["files"], first["v"]) == ("Start", "settings loaded", 2, 1)
    assert (last["phase"], last["family"]) == ("portals stand", IPFamily.IPV4)
    lived = time.clock_gettime(time.CLOCK_BOOTTIME) - process_start()
    assert 0 < first["seconds"] <= last["seconds"] <= lived + 0.001
    assert 0 < first["cpu_seconds"] <= last["cpu_seconds"]


def test_it_is_over_when_the_first_family_is_served_for_the_first_time() -> None:
    over: list[str] = []
    start = Start([IPFamily.IPV4, IPFamily.IPV6], lambda: over.append("over"))
    for family, times in ((IPFamily.IPV6, 0), (IPFamily.IPV4, 1), (IPFamily.IPV4, 1), (IPFamily.IPV6, 1)):
        start.synced(family)
        assert len(over) == times
