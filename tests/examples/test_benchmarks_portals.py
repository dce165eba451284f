"""What the benchmark of portals prints, and that it measures something where it may."""

import os

import pytest

from examples.benchmarks.portal_runs import Change, Figures, Rounds, measure
from examples.benchmarks.portals import to_text
from examples.benchmarks.toolchain import find_program


def figures(driver: str, services: int, connect_us: float) -> Figures:
    added = [Change(seen, seen / 2, 1.0) for seen in (30.0, 10.0, 20.0)]
    return Figures(driver, services, 1.5, 0.5, 100.0, connect_us, 4 * connect_us, added, added)


def test_a_line_for_each_size_with_medians_and_how_latency_grows() -> None:
    text = to_text([figures("local", 10_000, 36.0), figures("local", 100, 30.0), figures("nftables", 100, 50.0)])
    head, line, *_ = text.splitlines()
    assert head.split()[:2] == ["driver", "Services"]
    assert line.split() == ["local", "10000", "1.50", "0.50", "100", *(2 * ["20.0", "10.0", "1.0"]), "36", "144"]
    assert "local, 10000 Services over 100: connect 1.20, answer 1.20 (at most 1.2)" in text
    assert "nftables, " not in text, "there is nothing to compare"
    assert text.endswith("kube-proxy, a full sync of 5,000 Services: iptables 8.6 s, nftables 3.2 s\n")


@pytest.mark.slow
def test_services_are_served_come_and_go_in_a_network_of_their_own() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: makes a network namespace")
    program = find_program("userproxy")
    assert program is not None
    found = measure(program, "nftables", 5, Rounds(changes=1, connections=3))
    assert (found.driver, found.services, len(found.added), len(found.removed)) == ("nftables", 5, 1, 1)
    assert found.added[0].sync_ms > 0
    assert found.connect_us < found.answer_us
