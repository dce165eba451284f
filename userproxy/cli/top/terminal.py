"""A terminal of which single keys are read, and on which a screen is drawn."""

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from userproxy.cli.top.rates import Row
from userproxy.cli.top.screen import Reaction, Screen

_ARROWS: Final = {"A": "up", "B": "down", "H": "home"}
_ESCAPES: Final = {f"\x1b{kind}{letter}": key for kind in "[O" for letter, key in _ARROWS.items()}
_REDRAW_SECONDS: Final = 1.0


def run(screen: Screen, rows: Callable[[], Sequence[Row]], head: Callable[[], str], looks: int | None) -> None:
    """Draw the screen until a key ends it, or so many looks were taken."""
    console = Console(highlight=False, markup=False, emoji=False)
    with _single_keys() as descriptor, Live(console=console, screen=True, auto_refresh=False) as live:

        def draw() -> None:
            lines = screen.lines(head(), console.width, console.height)
            live.update(Text("\n".join(lines), no_wrap=True, overflow="crop"), refresh=True)

        while looks is None or looks > 0:
            screen.show(rows())
            looks = None if looks is None else looks - 1
            deadline = time.monotonic() + screen.delay
            draw()
            while (left := deadline - time.monotonic()) > 0:
                reactions = {screen.press(key) for key in _keys(descriptor, min(left, _REDRAW_SECONDS))}
                if Reaction.QUIT in reactions:
                    return
                if Reaction.LOOK in reactions:
                    break
                draw()


@contextmanager
def _single_keys() -> Iterator[int]:
    """Keys are not echoed and need no ENTER meanwhile; Ctrl-C still interrupts."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield descriptor
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _keys(descriptor: int, seconds: float) -> list[str]:
    """The keys that are pressed within this time, none if none is; those that come at once are read at once."""
    if not select.select([descriptor], [], [], seconds)[0]:
        return []
    read = os.read(descriptor, 64).decode(errors="replace")
    if not read:
        return ["q"]  # the terminal is gone
    return [_ESCAPES[read]] if read in _ESCAPES else list(read)
