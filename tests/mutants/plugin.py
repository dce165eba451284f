"""How tests run against mutants: those first that have been quick, none twice, and hypothesis to the point."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings

_STATS: Final = Path("mutmut-stats.json")
"""What mutmut has measured, in the directory that it runs tests in."""

_AGAIN: Final = ("asyncio", "IPv4-legacy", "IPv6-nft")
"""Parameters that repeat a test: on the other loop, or with the variant of iptables that the other family has."""

_FEWER: Final = 4
"""A state machine is tried with a quarter of its examples; each is dozens of steps."""


class _Stats(msgspec.Struct):
    duration_by_test: dict[str, float] = {}


def pytest_configure() -> None:
    """A failure is all that counts: it need not be made small, and the same examples are tried each time."""
    settings.register_profile(
        "mutants",
        max_examples=50,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    settings.load_profile("mutants")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only repeats, and sort by duration."""
    left_out = [item for item in items if _repeats(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = sorted((item for item in items if item not in left_out), key=_duration())
    for item in items:
        cls = item.cls if isinstance(item, pytest.Function) else None
        if cls is not None and isinstance(given := getattr(cls, "settings", None), settings):
            cls.settings = settings(given, max_examples=given.max_examples // _FEWER, phases=(Phase.generate,))


def _repeats(item: pytest.Item) -> bool:
    _, _, parameters = item.name.partition("[")
    return any(again in parameters for again in _AGAIN)


def _duration() -> Callable[[pytest.Item], float]:
    if not _STATS.exists():
        return lambda _: 0.0
    known = msgspec.json.decode(_STATS.read_bytes(), type=_Stats).duration_by_test
    return lambda item: known.get(item.nodeid, 0.0)
