"""What became of mutants, from what mutmut prints of them. Pure."""

import re
from collections.abc import Iterable
from typing import Final, Self

from msgspec import Struct

_RESULT: Final = re.compile(r"\s*(\S+__mutmut_\d+): (.+?)\s*")

NOTICED: Final = frozenset({"killed", "timeout", "segfault"})
"""A mutant that hangs the tests or ends their process is noticed, too."""


class Score(Struct, frozen=True):
    """How many mutants were tried, and the names of those that no test noticed, with the reason."""

    tried: int = 0
    survivors: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Those that no test noticed."""
        return [survivor.partition(": ")[0] for survivor in self.survivors]

    @property
    def percent(self) -> float:
        """The share of mutants that were noticed; 100 if none was tried."""
        return 100.0 * (self.tried - len(self.survivors)) / self.tried if self.tried else 100.0

    def __add__(self, other: Self) -> "Score":
        return Score(self.tried + other.tried, self.survivors + other.survivors)

    def __str__(self) -> str:
        return f"{self.tried - len(self.survivors)} of {self.tried} mutants noticed ({self.percent:.0f} %)"


def read_score(lines: Iterable[str], names: Iterable[str]) -> Score:
    """The score of the mutants `names`, by the output of ``mutmut results --all true``.

    One that mutmut has no outcome for counts as unnoticed.
    """
    found = {match[1]: match[2] for line in lines if (match := _RESULT.fullmatch(line))}
    outcomes = [(name, found.get(name, "not checked")) for name in names]
    survivors = tuple(f"{name}: {outcome}" for name, outcome in outcomes if outcome not in NOTICED)
    return Score(len(outcomes), survivors)
