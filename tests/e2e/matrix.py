"""The matrix: which end-to-end suites run with every portal driver, over bridged and over routed Pods.

A suite names neither: its labs are what the fixture ``cell`` says. To add a driver, add it to ``DRIVERS`` of
tests/lab/drivers.py. What a driver cannot do is an exception here and, in the same words, in docs/drivers.md.

``pytest --matrix all`` runs every test in every cell. Without it each test runs in one cell, drawn by the commit's id,
so that many commits see all of it; ``--matrix iptables-nft,iptables-legacy:routed`` runs the cells that are named.
Tests outside the matrix that take long with each driver say by the mark ``sampled(N)`` how many of their parameters a
sample has.
"""

import subprocess
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from random import Random
from typing import NamedTuple

import pytest

from tests.lab.cluster import Cell
from tests.lab.drivers import DRIVERS
from tests.lab.proxy import WORKERS
from userproxy.demo.network import PodWiring

SUITES = (
    "test_traffic",
    "test_policies",
    "test_load_balancers",
    "test_external_ips",
    "test_no_endpoints",
    "test_hold",
    "test_udp",
    "test_node_ports",
    "test_dual_stack",
    "test_local_ports",
    "test_new_links",
    "test_capabilities",
    "test_node_address",
    "test_explain",
    "test_client_address",
    "test_kubernetes_specs",
)

WIRINGS: tuple[PodWiring, ...] = ("bridged", "routed")

CELLS = tuple(Cell(driver, pods) for driver in DRIVERS.values() for pods in WIRINGS)


class Exemption(NamedTuple):
    """A test that is not run in some cells, by driver, by wiring or by both; `reason` stands in docs/drivers.md.

    Some are left out only where the tests' proxies have data processes.
    """

    test: str
    reason: str
    drivers: Collection[str] = tuple(DRIVERS)
    pods: Collection[PodWiring] = WIRINGS
    only_with_data_processes: bool = False

    def covers(self, test: str, cell: Cell) -> bool:
        if self.only_with_data_processes and not WORKERS:
            return False
        return test.startswith(self.test) and cell.driver.name in self.drivers and cell.pods in self.pods


_BY_THE_BRIDGE = "test_node_address.py::test_connections_by_the_bridges_address_go_on"

EXEMPTIONS = (
    Exemption(
        "test_policies.py::test_a_pod_of_this_node_is_known_in_every_mode_of_detection[BridgeInterface",
        "`--pod-bridge-interface` names a bridge, and routed Pods have none",
        pods=["routed"],
    ),
    Exemption(_BY_THE_BRIDGE, "routed Pods are reached from the node's address", pods=["routed"]),
    Exemption(_BY_THE_BRIDGE, "what is translated to the node's address ends with it", drivers=["nftables"]),
    Exemption(
        "test_node_ports.py::test_portals_on_addresses_of_the_node_give_way_to_its_programs",
        "it listens there itself",
        drivers=["local"],
    ),
    Exemption(
        "test_external_ips.py::test_a_claim_of_somebody_s_address_takes_the_claimed_port_alone",
        "the address becomes the node's own with all its ports",
        drivers=["local"],
    ),
    Exemption(
        "test_udp.py::test_ten_thousand_flows_leave_nothing_behind",
        "a portal that is a socket itself belongs to one data process, which has its share of the limit of flows",
        drivers=["local"],
        only_with_data_processes=True,
    ),
)


def chosen_cells(option: str) -> list[Cell]:
    """The cells that ``--matrix`` names: by driver, by wiring, or ``driver:wiring``; all for ``all`` and ``sample``."""
    if option in ("all", "sample"):
        return list(CELLS)
    wanted = option.split(",")
    cells = [cell for cell in CELLS if {cell.driver.name, cell.pods, str(cell)} & set(wanted)]
    if not cells:
        raise pytest.UsageError(f"--matrix {option}: none of {', '.join(map(str, CELLS))}, all, sample")
    return cells


def exempted(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """The tests that their cells' drivers or wirings cannot pass."""
    return [item for item in items if (cell := cell_of(item)) and _is_exempt(item, cell)]


def drawn(items: Sequence[pytest.Item], seed: str) -> list[pytest.Item]:
    """All that is not of the matrix, and of every test that is, one cell. Those of a shared lab have one together."""
    groups: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        groups[_group(item)].append(item)
    kept: set[pytest.Item] = set()
    for name, members in groups.items():
        cells = list(dict.fromkeys(cell_of(item) for item in members))
        cell = Random(f"{seed} {name}").choice(cells)
        kept.update(item for item in members if cell_of(item) == cell)
    return _some_parameters([item for item in items if item in kept], seed)


def _some_parameters(items: Sequence[pytest.Item], seed: str) -> list[pytest.Item]:
    """Of a test with the mark ``sampled(N)`` no more than N sets of its parameters; of all others everything."""
    by_test: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sampled") is not None:
            by_test[item.nodeid.partition("[")[0]].append(item)
    left_out: set[pytest.Item] = set()
    for name, members in by_test.items():
        mark = members[0].get_closest_marker("sampled")
        most = mark.args[0] if mark is not None else len(members)
        left_out.update(Random(f"{seed} {name}").sample(members, max(0, len(members) - most)))
    return [item for item in items if item not in left_out]


def cell_of(item: pytest.Item) -> Cell | None:
    """The cell that a test runs in; None where it is not of the matrix."""
    cell = item.callspec.params.get("cell") if isinstance(item, pytest.Function) and hasattr(item, "callspec") else None
    return cell if isinstance(cell, Cell) else None


def commit() -> str:
    """The id of the commit that is checked out, empty where there is no repository."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _is_exempt(item: pytest.Item, cell: Cell) -> bool:
    return any(each.covers(_without_cell(item, cell), cell) for each in EXEMPTIONS)


def _without_cell(item: pytest.Item, cell: Cell) -> str:
    """The file and the test with its other parameters."""
    name = item.nodeid.rpartition("/")[2]
    return name.replace(f"{cell}-", "").replace(f"-{cell}", "").replace(f"[{cell}]", "")


def _group(item: pytest.Item) -> str:
    cell = cell_of(item)
    if cell is None:
        return item.nodeid
    is_shared = isinstance(item, pytest.Function) and "shared_lab" in item.fixturenames
    return item.nodeid.partition("::")[0] if is_shared else _without_cell(item, cell)
