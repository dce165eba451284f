"""In which order several workers try the tests: the long ones first, in every worker's share as many of them.

pytest-xdist's ``worksteal`` cuts the list into shares of as many tests each, and gives a worker that has tried all of
its own half of what the longest share has left. Two things follow. What stands at the end of a share is tried last, and
a long test there keeps one processor busy while the others wait for it. And tests that wait for programs, most of
the end-to-end tests, should be under way in all workers at once, since they leave the processors to each other.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

T = TypeVar("T")

LONGEST: Final = (
    "tests/e2e/test_drain.py::test_a_drain_goes_on_over_a_take_over_and_closes_in_the_successor",
    "tests/e2e/test_drain.py::test_clients_of_a_removed_endpoint_may_stay_as_long_in_the_successor",
    "tests/e2e/test_dashboard_succession.py::test_the_page_goes_on_with_a_successor_and_with_a_proxy_that_returns",
    "tests/e2e/test_return_path.py::test_what_a_killed_process_had_goes_with_the_last_connection",
    "tests/e2e/test_client_address_paths.py::test_a_policy_that_selects_pods_admits_and_refuses_the_right_ones",
    "tests/e2e/test_tenants.py::test_hundreds_of_bad_annotations_are_told_slowly",
    "tests/e2e/test_udp.py::test_ten_thousand_flows_leave_nothing_behind",
    "tests/e2e/test_watched.py::test_a_reader_that_stops_is_cut_off_and_costs_bounded_memory",
    "tests/forwarding/tcp/test_connections.py::test_ten_thousand_connections_ended_in_every_way_leave_nothing_behind",
    "tests/processes/control/test_briefing.py::test_killed_again_and_again_under_load",
)
"""The beginnings of the names of tests that take more than ten seconds. None shares a lab with the rest of its file."""

LONG: Final = ("tests/e2e/", "tests/processes/", "tests/examples/")
"""Where most tests start programs; those that take longest on the whole come first."""


def ordered(names: Sequence[str], workers: int) -> list[str]:
    """The same `names`, as ids of pytest, for so many workers. Tests of one file stay together but for the longest."""
    longest = [name for name in names if name.startswith(LONGEST)]
    shares = _shares(len(names), workers)
    _deal([[name] for name in longest], shares)
    rest = [name for name in names if not name.startswith(LONGEST)]
    for folder in LONG:
        _deal(_files(name for name in rest if name.startswith(folder)), shares)
    _fill(shares, [name for name in rest if not name.startswith(LONG)])
    return [name for share in shares for name in share.names]


class _Share:
    """What one worker begins with: `size` tests."""

    def __init__(self, size: int) -> None:
        self.names: list[str] = []
        self.size = size

    @property
    def left(self) -> int:
        return self.size - len(self.names)


def _shares(tests: int, workers: int) -> list[_Share]:
    """As many tests to each as ``worksteal`` gives it at the start: the last shares have one more."""
    shares: list[_Share] = []
    for remaining in range(workers, 0, -1):
        shares.append(_Share(tests // remaining))
        tests -= shares[-1].size
    return shares


def _deal(groups: Iterable[Sequence[str]], shares: Sequence[_Share]) -> None:
    """Each group to whoever has got the fewest of them; what does not fit any more goes on in the next share."""
    before = {share: len(share.names) for share in shares}
    for group in groups:
        _fill(sorted(shares, key=lambda share: len(share.names) - before[share]), group)


def _fill(shares: Iterable[_Share], names: Sequence[str]) -> None:
    for share in shares:
        taken, names = names[: share.left], names[share.left :]
        share.names += taken


def _files(names: Iterable[str]) -> list[list[str]]:
    """By file, those with the most tests first, so that shares become as long as each other."""
    files: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        files[name.partition("::")[0]].append(name)
    return sorted(files.values(), key=len, reverse=True)
