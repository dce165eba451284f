"""What hosts start."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from userproxy.demo import hosts


@contextmanager
def programs_started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The programs that hosts have started since, by name."""
    started: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(hosts, "require_tool", lambda tool, _path: started.append(tool))
        yield started
