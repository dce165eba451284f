"""``python -m examples.benchmarks``: proxies side by side, or by its name the benchmark of another part."""

import sys

from examples.benchmarks import (
    calls,
    client_address,
    control_plane,
    growth,
    portal_syncs,
    portals,
    run,
    system_calls,
    undisturbed,
    watched,
)

_BY_NAME = {
    "client_address": client_address.main,
    "portals": portals.main,
    "portal_syncs": portal_syncs.main,
    "control_plane": control_plane.main,
    "growth": growth.main,
    "system_calls": system_calls.main,
    "undisturbed": undisturbed.main,
    "watched": watched.main,
    "calls": calls.main,
}

if len(sys.argv) > 1 and sys.argv[1] in _BY_NAME:
    name = sys.argv.pop(1)
    _BY_NAME[name](prog_name=f"python -m examples.benchmarks {name}")
run.main()
