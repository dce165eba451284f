"""The demo inside its sandbox; ``userproxy demo`` runs it as ``python -m userproxy.demo``."""

import io
import sys

from rich.console import Console

from userproxy.demo.play.screen import Screen
from userproxy.demo.play.steps import run_demo

if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # bars in a terminal that has no such character
    sys.exit(run_demo(Screen(Console())))
