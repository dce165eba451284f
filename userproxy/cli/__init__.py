"""The command line: a module for each command, however short. Commands parse, call and print, nothing else."""

import click

from userproxy import __version__
from userproxy.cli.sections import SectionedGroup

SECTIONS = {
    "Serve": {
        "run": "userproxy.cli.run:run",
        "cleanup": "userproxy.cli.cleanup:cleanup",
        "demo": "userproxy.cli.demo:demo",
        "doctor": "userproxy.cli.doctor:doctor",
    },
    "See what a running userproxy does": {
        "get": "userproxy.cli.inspect.get:get",
        "describe": "userproxy.cli.inspect.describe:describe",
        "observe": "userproxy.cli.inspect.observe:observe",
        "capture": "userproxy.cli.inspect.capture:capture",
        "dashboard": "userproxy.cli.dashboard:dashboard",
        "top": "userproxy.cli.top.command:top",
        "explain": "userproxy.cli.inspect.explain:explain",
        "status": "userproxy.cli.inspect.status:status",
        "diff": "userproxy.cli.inspect.diff:diff",
    },
    "Steer it": {
        "drain": "userproxy.cli.steer.drain:drain",
        "undrain": "userproxy.cli.steer.drain:undrain",
        "close": "userproxy.cli.steer.close:close",
        "fault": "userproxy.cli.steer.fault:fault",
    },
    "Other": {
        "completion": "userproxy.cli.completion:completion",
        "relay": "userproxy.cli.relay:relay",
    },
}
"""Where each command is, by its name, as the help groups them."""


@click.group(cls=SectionedGroup, sections=SECTIONS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="userproxy")
def main() -> None:
    """A userspace Service proxy for Kubernetes."""
