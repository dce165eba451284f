"""A data process serves without a control process."""

from pathlib import Path

import pytest

from examples.benchmarks.data_process import data_process
from examples.benchmarks.exchanges import answering, is_served
from examples.benchmarks.processes import StartError


def test_it_serves_what_it_is_told_of(tmp_path: Path) -> None:
    with answering() as backend, data_process(tuple, backend, tmp_path / "log", 60.0) as (pid, address):
        assert Path(f"/proc/{pid}").exists()
        assert is_served(address)


def test_one_that_does_not_start_is_told_of_with_its_last_words(tmp_path: Path) -> None:
    def wrapped(_command: object) -> tuple[str, ...]:
        return "sh", "-c", "echo no such thing >&2"

    with (
        pytest.raises(StartError, match="a data process does not start: it has ended: no such thing"),
        data_process(wrapped, ("127.0.0.1", 1), tmp_path / "log", 60.0),
    ):
        pass
