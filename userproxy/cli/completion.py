"""``userproxy completion``: scripts by which shells complete commands, options and their values."""

import click
from click.shell_completion import ShellComplete, get_completion_class

_SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script with which the shell completes commands and options.

    \b
    bash:  source <(userproxy completion bash)
    zsh:   source <(userproxy completion zsh)
    fish:  userproxy completion fish | source
    """
    click.echo(script(context.find_root().command, shell))


def script(command: click.Command, shell: str) -> str:
    """The script for a shell. It is click's own; the shell need not be here, as click otherwise wants to see."""
    kind = get_completion_class(shell)
    assert kind is not None, shell  # noqa: S101 - for mypy: the argument's type admits only shells that click has
    return ShellComplete.source(kind(command, {}, "userproxy", "_USERPROXY_COMPLETE"))
