"""The command line: a module for each command, however short. Commands parse, call and print, nothing else."""

import click

from userproxy import __version__
from userproxy.cli.cleanup import cleanup
from userproxy.cli.demo import demo
from userproxy.cli.run import run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="userproxy")
def main() -> None:
    """A userspace Service proxy for Kubernetes."""


for command in (run, cleanup, demo):
    main.add_command(command)
