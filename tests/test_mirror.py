"""Tests mirror the source: ``userproxy/AREA/MODULE.py`` has ``tests/AREA/test_MODULE.py``."""

import ast
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]

ELSEWHERE: Final = {
    # What a command prints is shown by the commands.
    "cli/inspect/test_explain.py": ["cli/output/explanation"],
    "cli/test_run.py": ["cli/flags"],
    "cli/top/test_rates.py": ["cli/top/clients"],
    # The demo is shown by running it, and the lab of the end-to-end tests is made of its parts.
    "e2e/test_demo.py": ["demo/play/rules"],
    "demo/play/test_steps.py": ["demo/play/screen"],
    # Values and small questions that only their users give a meaning.
    "admin/steering/test_drains.py": ["admin/steering/refusals"],
    "cluster/objects/test_service.py": ["model/cluster", "model/limits"],
    "doctor/test_checks.py": ["doctor/sysctls"],
    "forwarding/faults/test_faults.py": ["model/faults"],
    "forwarding/observation/test_data_plane.py": [
        "forwarding/observation/reasons",
        "forwarding/observation/reports",
        "forwarding/observation/watches",
        "model/data_plane",
    ],
    "portals/test_drivers.py": ["portals/interface"],
    "proxier/inspect/test_explanation.py": [
        "proxier/inspect/control_plane",
        "proxier/inspect/inquiry",
        "proxier/inspect/surroundings",
    ],
    "routing/balancers/test_methods.py": ["routing/balancers/board", "routing/balancers/interface"],
    "routing/test_balancer.py": ["model/snapshots"],
    "wiring/test_steering.py": ["model/steering"],
    # What connections and flows have only together with a listener, and real clients.
    "forwarding/handover/test_listeners.py": ["forwarding/handover/plain", "forwarding/handover/taking"],
    "forwarding/handover/test_values.py": [
        "forwarding/tcp/states",
        "forwarding/udp/flow_account",
        "forwarding/udp/states",
    ],
    "forwarding/observation/test_capture.py": ["forwarding/observation/taps", "forwarding/tcp/tap"],
    "forwarding/tcp/sources/test_dial_source.py": ["forwarding/tcp/sources/client_sockets"],
    "forwarding/tcp/test_listener.py": ["forwarding/tcp/plane"],
    "forwarding/tcp/test_direction.py": ["forwarding/tcp/relays/context"],
    "forwarding/test_portal_listeners.py": ["forwarding/tcp/portal", "forwarding/udp/portal"],
    "forwarding/test_sharing.py": ["forwarding/tcp/shared"],
    "forwarding/udp/test_plane.py": ["forwarding/udp/surroundings"],
    # What only the kernel can show to be right: the driver's tests have it.
    "e2e/test_healing.py": ["portals/iptables/sentinel"],
    "portals/iptables/test_driver.py": ["portals/iptables/usable", "portals/translating"],
    "portals/iptables/test_tables.py": ["portals/programs"],
    "portals/local/test_driver.py": ["portals/local/conflicts", "portals/local/wildcards"],
    "portals/netlink/test_ruleset.py": ["portals/netlink/network_changes", "portals/netlink/notifications"],
    "portals/nftables/test_driver.py": ["portals/nftables/host"],
    "portals/nftables/test_kernel.py": [
        "portals/nftables/expressions",
        "portals/nftables/layout",
        "portals/nftables/messages",
    ],
    "portals/return_path/test_standing.py": ["portals/return_path/nftables", "portals/return_path/tables"],
    # What takes several processes.
    "processes/control/test_briefing.py": ["processes/control/held", "processes/control/held_portals"],
    "processes/control/test_forwarding.py": [
        "processes/control/pool",
        "processes/control/spawning",
        "processes/control/worker",
        "processes/data/log_output",
        "processes/data/process",
    ],
    "processes/ejections/test_deciding.py": ["processes/ejections/telling"],
    "processes/takeover/test_takeover.py": ["processes/takeover/predecessor", "processes/takeover/successor"],
    # What takes a whole proxy.
    "e2e/test_admin.py": ["wiring/admin"],
    "e2e/test_takeover.py": ["wiring/succession/takeover"],
}
"""Modules whose tests have another name, by these tests. A new module needs no place here: it has tests of its own."""


def modules() -> list[str]:
    """Those that do something: they have functions. What only declares values has nothing to be tested alone."""
    found = []
    for path in sorted((ROOT / "userproxy").rglob("*.py")):
        if path.name not in ("__init__.py", "__main__.py"):
            nodes = ast.walk(ast.parse(path.read_text()))
            if any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in nodes):
                found.append(str(path.relative_to(ROOT / "userproxy").with_suffix("")))
    return found


def _tests_of(module: str) -> Path:
    return ROOT / "tests" / Path(module).parent / f"test_{Path(module).name}.py"


def test_every_module_has_a_test_file_of_its_name() -> None:
    excepted = {module for listed in ELSEWHERE.values() for module in listed}
    missing = [f"tests/{module}" for module in modules() if module not in excepted and not _tests_of(module).exists()]
    assert missing == [], "these modules have no test file of their name"


@pytest.mark.parametrize("tests", ELSEWHERE)
def test_exceptions_name_tests_that_there_are(tests: str) -> None:
    assert (ROOT / "tests" / tests).exists()


def test_no_exception_is_made_twice() -> None:
    excepted = [module for listed in ELSEWHERE.values() for module in listed]
    assert len(excepted) == len(set(excepted))
