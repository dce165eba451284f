"""``python -m examples.benchmarks``: proxies side by side, or by its name the benchmark of another part."""

import sys

import click

from examples.benchmarks import (
    calls,
    change,
    client_address,
    control_plane,
    everything,
    growth,
    instructions,
    portal_syncs,
    portals,
    run,
    start,
    system_calls,
    undisturbed,
    watched,
    workers,
)
from examples.benchmarks.interpreter import interpreter
from userproxy.demo.bytecode import kept_bytecode

BY_NAME = {
    "client_address": client_address.main,
    "portals": portals.main,
    "portal_syncs": portal_syncs.main,
    "control_plane": control_plane.main,
    "growth": growth.main,
    "everything": everything.main,
    "instructions": instructions.main,
    "start": start.main,
    "system_calls": system_calls.main,
    "undisturbed": undisturbed.main,
    "watched": watched.main,
    "workers": workers.main,
    "calls": calls.main,
    "change": change.main,
}


def main() -> None:
    """Run the benchmark that the first argument names, or else that of proxies side by side."""
    with kept_bytecode():
        if len(sys.argv) > 1 and sys.argv[1] in BY_NAME:
            name = sys.argv.pop(1)
            if name != "everything" and "--help" not in sys.argv:  # which say it themselves, or measure nothing
                click.echo(interpreter())
            BY_NAME[name](prog_name=f"python -m examples.benchmarks {name}")
        run.main()


if __name__ == "__main__":
    main()
