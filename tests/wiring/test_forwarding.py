"""What carries the traffic."""

import pytest

from userproxy.wiring.forwarding import workers_for


@pytest.mark.parametrize(("processors", "workers"), [(1, 1), (2, 1), (3, 2), (4, 3), (5, 4), (64, 4)])
def test_auto_leaves_a_processor_to_others_and_has_four_data_processes_at_most(processors: int, workers: int) -> None:
    assert workers_for(processors) == workers
