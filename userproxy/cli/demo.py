"""``userproxy demo``: userproxy at work, in a network of its own."""

import sys

import click

from userproxy.demo.play.sandbox import SandboxError, run_in_sandbox


@click.command()
def demo() -> None:
    """Show userproxy at work in a private network.

    A node, three Pods, a client and an outside host are built out of network namespaces, userproxy serves
    them through real iptables rules, and traffic is sent while a Pod dies and another joins. It needs no
    cluster, changes nothing on this machine, and needs no root where user namespaces are allowed.
    """
    try:
        code = run_in_sandbox([sys.executable, "-m", "userproxy.demo"])
    except SandboxError as error:
        raise click.ClickException(str(error)) from error
    if code > 128:
        click.echo("Stopped; nothing is left behind.", err=True)
    sys.exit(code)
