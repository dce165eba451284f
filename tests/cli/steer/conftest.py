"""An admin server with two Services, where faults are allowed, and how a command that asks it ends."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.admin.planes import DNS, ONE, TWO, WEB, Served
from tests.cli.served import Running, running


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path) as found:

        def fill(api: Served) -> None:
            api.control.add(WEB, ONE, TWO)
            api.control.add(DNS, TWO, ip="10.96.0.53", port=53)
            api.may_have_faults = True

        found.tell(fill)
        yield found
        found.tell(lambda api: api.drains.shut_down())


def good(proxy: Running, *arguments: str) -> str:
    found = proxy.run(*arguments)
    assert (found.exit_code, found.stderr) == (0, "")
    return found.stdout


def bad(proxy: Running, *arguments: str, code: int = 2) -> str:
    found = proxy.run(*arguments)
    assert (found.exit_code, found.stdout) == (code, "")
    assert found.stderr.count("\n") == 1 or "Usage:" in found.stderr
    return found.stderr


def asks_for_nothing(proxy: Running, arguments: str, sentence: str, code: int = 2) -> None:
    """The command fails with one sentence, and nothing is changed."""
    assert sentence in bad(proxy, *arguments.split(), code=code)
    assert (proxy.api.drains.all(), proxy.api.steering.closed, proxy.api.steering.faults) == ([], [], ())
