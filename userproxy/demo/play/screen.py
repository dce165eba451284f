"""What the demo prints: coloured on a terminal, plain in a pipe, and never folded or read as markup."""

from collections import Counter
from collections.abc import Iterable

from rich.console import Console

from userproxy.demo.hosts import Host


class Screen:
    """Writes the demo's lines. Addresses such as ``[fd00::15]:53`` are printed as they are."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._steps = 0

    def step(self, title: str, explanation: str) -> None:
        self._steps += 1
        self._line("")
        self._line(f"{self._steps}. {title}", "bold cyan")
        self._line(f"   {explanation}", "dim")

    def hosts(self, hosts: Iterable[Host]) -> None:
        for host in hosts:
            self._line(f"   {host.name:<10} {host.address}")

    def command(self, text: str) -> None:
        self._line(f"   $ {text}", "yellow")

    def rules(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._line(f"   {line}", "bold" if line.startswith("*") else "magenta")

    def bars(self, title: str, counts: Counter[str]) -> None:
        """One bar for each name, 40 characters for the largest count."""
        self._line(f"   {title}")
        largest = max(counts.values(), default=1)
        for name, count in sorted(counts.items()):
            self._line(f"     {name:<8} {'█' * round(40 * count / largest)} {count}", "green")

    def good(self, text: str) -> None:
        self._line(f"   ✔ {text}", "bold green")

    def bad(self, text: str, log: Iterable[str]) -> None:
        self._line("")
        self._line(f"   ✘ {text}", "bold red")
        for line in log:
            self._line(f"     {line}", "red")

    def end(self, text: str) -> None:
        self._line("")
        self._line(text, "bold")

    def _line(self, text: str, style: str = "") -> None:
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
