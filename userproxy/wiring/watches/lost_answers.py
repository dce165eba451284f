"""Tells where answers to clients' addresses do not come back: as problems of the node, for commands and Events."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from userproxy.model import Problem, ProblemKind
from userproxy.model.data_plane import DataPlane
from userproxy.model.reports import LostAnswers

_LOOK_SECONDS: Final = 2.0

_MOST: Final = 10
"""Problems, each of one interface, before the others are one together; likewise nodes of which one is named."""


class LostAnswersWatch:
    """Asks the data plane from time to time. `problems` are those of now; `changed` is called when they are others."""

    def __init__(self, data_plane: DataPlane, changed: Callable[[], None]) -> None:
        self._data_plane = data_plane
        self._changed = changed
        self.problems: frozenset[Problem] = frozenset()

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Ask once."""
        problems = problems_of(await self._data_plane.lost_answers())
        if problems != self.problems:
            self.problems = problems
            self._changed()


def problems_of(lost: Iterable[LostAnswers]) -> frozenset[Problem]:
    """One problem for each interface that clients are behind, a few at most. They say nothing of single clients."""
    nodes: dict[str, set[str]] = {}
    for each in lost:
        who = f"clients on {each.interface}" if each.interface else "clients behind gateways"
        about = f"{who} ({each.protocol} over {each.family})"
        nodes.setdefault(about, set()).add(f"node {each.node}" if each.node else "endpoints whose node is not known")
    texts = [_text(about, _listed(nodes[about])) for about in sorted(nodes)]
    if len(texts) > _MOST:
        texts[_MOST:] = [_text("clients on other interfaces", "some nodes")]
    return frozenset(Problem(None, ProblemKind.CLIENT_ADDRESS_NOT_KEPT, text, here=True) for text in texts)


def _listed(nodes: set[str]) -> str:
    names = sorted(nodes)
    return ", ".join(names[:_MOST]) + (" and others" if len(names) > _MOST else "")


def _text(about: str, nodes: str) -> str:
    return (
        f"answers from {nodes} to the addresses of {about} do not come back, so endpoints there see this node's"
        " address; `userproxy doctor` says what may be in the way"
    )
