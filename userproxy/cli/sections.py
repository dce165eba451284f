"""A group of commands that are imported once one of them is asked for, and listed in sections by the help."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from userproxy.cli.importing import uncollected


class SectionedGroup(click.Group):
    """Knows of each command only where it is, as ``module:name``: ``--version`` need not wait for what none needs."""

    def __init__(self, *args: Any, sections: Mapping[str, Mapping[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections
        self._places = {name: place for places in sections.values() for name, place in places.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All names, in the order of the help."""
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Import a command; None if there is none of that name."""
        place = self._places.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        with uncollected():
            command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each section with a line for every command."""
        width = formatter.width - 6 - max(map(len, self._places))
        for title, places in self._sections.items():
            commands = {name: self.get_command(ctx, name) for name in places}
            rows = [(name, each.get_short_help_str(width)) for name, each in commands.items() if each is not None]
            with formatter.section(title):
                formatter.write_dl(rows)
