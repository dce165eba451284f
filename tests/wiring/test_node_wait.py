"""When the first sync may begin."""

import pytest

from userproxy.cluster.store import Store
from userproxy.config import Settings
from userproxy.config.kubeproxy import LocalMode
from userproxy.model import EndpointSlice, Hints, Service, SliceEndpoint
from userproxy.wiring.node_wait import NodeWait, depends_on_node

WEB = Service("shop", "web", cluster_ips=("10.96.0.10",))


class Bench:
    """Counts the changes that are passed on; `known` is whether our Node is."""

    def __init__(self) -> None:
        self.known = False
        self.passed = 0
        self.wait = NodeWait(lambda: self.known, self._pass_on)

    def _pass_on(self) -> None:
        self.passed += 1


def test_changes_wait_for_our_node_and_are_passed_on_ever_after() -> None:
    bench = Bench()
    bench.wait.source_changed()
    assert bench.passed == 0
    bench.known = True
    bench.wait.source_changed()
    bench.known = False
    bench.wait.source_changed()
    assert bench.passed == 2


def test_in_the_end_nobody_waits() -> None:
    bench = Bench()
    bench.wait.source_changed()
    bench.wait.end()
    assert bench.passed == 1
    bench.wait.end()
    assert bench.passed == 1
    bench.wait.source_changed()
    assert bench.passed == 2


def test_nothing_is_passed_on_before_the_source_has_changes() -> None:
    bench = Bench()
    bench.wait.end()
    assert bench.passed == 0
    bench.wait.source_changed()
    assert bench.passed == 1


@pytest.mark.parametrize(
    ("settings", "hints", "depends"),
    [
        (Settings(), None, False),
        (Settings(node_port_addresses=("10.0.0.0/8",)), None, False),
        (Settings(node_port_addresses=("primary",)), None, True),
        (Settings(detect_local_mode=LocalMode.NODE_CIDR), None, True),
        (Settings(), Hints(zones=("a",)), True),
        (Settings(), Hints(nodes=("node-1",)), True),
    ],
)
def test_what_depends_on_our_node(settings: Settings, hints: Hints | None, depends: bool) -> None:
    store = Store()
    store.upsert(WEB)
    endpoints = (SliceEndpoint("10.244.0.1"), SliceEndpoint("10.244.0.2", hints=hints))
    store.upsert(EndpointSlice("shop", "web-1", "web", "IPv4", (), endpoints))
    assert depends_on_node(settings, store) is depends
