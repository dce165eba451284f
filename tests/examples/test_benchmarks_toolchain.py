"""Which Go compiler the benchmarks take."""

from pathlib import Path

import pytest

from examples.benchmarks import toolchain
from examples.benchmarks.toolchain import BuildError, build, find_go


@pytest.mark.parametrize(
    ("says", "is_taken"),
    [
        ("go version go1.22 linux/amd64", True),
        ("go version go1.26.3 linux/arm64", True),
        ("go version go2.0 linux/amd64", True),
        ("go version go1.19.8 linux/amd64", False),
        ("go version devel +0123abc", False),
        ("no such tool", False),
    ],
)
def test_one_that_is_too_old_is_as_good_as_none(
    says: str, is_taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = tmp_path / "go"
    go.write_text(f"#!/bin/sh\necho '{says}'\n")
    go.chmod(0o755)
    monkeypatch.setattr(toolchain, "find_program", {"go": str(go)}.get)
    assert find_go() == (str(go) if is_taken else None)
    if not is_taken:
        with pytest.raises(BuildError, match=r"no Go compiler of version 1\.22 or later: pip install"):
            build("load")


def test_there_may_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "find_program", lambda _: None)
    assert find_go() is None
