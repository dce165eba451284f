"""What a running proxy answers about itself, with both families in it."""

import asyncio
import json

from userproxy.cluster.store import Changes, Store
from userproxy.config import Settings
from userproxy.model import EndpointSlice, IPFamily, Node, Problem, ProblemKind, Service
from userproxy.routing.services import NoLocalEndpoints
from userproxy.telemetry.health import Answer
from userproxy.telemetry.timestamps import now
from userproxy.wiring.monitor import Monitor

WEB = Service("shop", "web", cluster_ips=("10.96.0.10", "fd00::10"))


class Bench:
    """A Monitor of both families beside a Store of which neither has taken anything."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.store = Store()
        self.changes: dict[IPFamily, Changes] = {family: self.store.subscribe(family) for family in IPFamily}
        self.monitor = Monitor(settings or Settings(), IPFamily)
        for family, changes in self.changes.items():
            self.monitor.count_pending(family, lambda changes=changes: changes.pending)  # type: ignore[misc]

    def asked(self, path: str) -> int:
        """The status of an answer of the health port."""
        answer: Answer = getattr(self.monitor._health, path)(now())
        return answer.status

    def sync(self, family: IPFamily, *, ok: bool = True) -> None:
        reporter = self.monitor.reporter(family)
        reporter.sync_began()
        self.changes[family].take_changes()
        reporter.synced((), {}, NoLocalEndpoints(), ok=ok)

    async def waiting(self) -> list[float]:
        text = (await self.monitor._metrics.render()).decode().splitlines()
        names = [f"kubeproxy_sync_proxy_rules_{kind}_changes_pending " for kind in ("service", "endpoint")]
        return [float(line.split()[1]) for name in names for line in text if line.startswith(name)]


async def test_a_family_that_syncs_takes_nothing_from_what_waits_for_the_other() -> None:
    bench = Bench()
    bench.store.upsert(WEB)
    for number in range(3):
        bench.store.upsert(EndpointSlice("shop", f"web-{number}", "web", "IPv6"))
    bench.monitor.count_events(bench.store.events)
    assert await bench.waiting() == [2, 3]
    bench.sync(IPFamily.IPV4)
    assert await bench.waiting() == [1, 3]
    bench.sync(IPFamily.IPV6)
    assert await bench.waiting() == [0, 0]


async def test_rules_that_cannot_be_written_make_the_node_unhealthy_and_not_the_process() -> None:
    bench = Bench(Settings(sync_period=0.02))
    bench.monitor.node_seen(Node("worker-1"))
    for family in IPFamily:
        bench.monitor.reporter(family).queued()
    assert [bench.asked("healthz"), bench.asked("livez")] == [200, 200]
    for _ in range(8):
        bench.sync(IPFamily.IPV4)
        bench.sync(IPFamily.IPV6, ok=False)
        await asyncio.sleep(0.01)
    assert [bench.asked("healthz"), bench.asked("livez")] == [503, 200]
    bench.sync(IPFamily.IPV6)
    assert [bench.asked("healthz"), bench.asked("livez")] == [200, 200]


async def test_a_small_limit_of_open_files_leaves_small_budgets() -> None:
    for limit, most in ((1_048_576, 144), (1024, 144), (512, 72), (64, 12)):
        assert Monitor(Settings(), IPFamily, limit).most_connections == most


async def test_ports_that_lack_a_descriptor_show_in_metrics_and_health() -> None:
    bench = Bench()
    crowded = [Problem(WEB.key, ProblemKind.OUT_OF_DESCRIPTORS, f"port {n}: not served") for n in range(3)]
    bench.monitor.problems_are([*crowded, Problem(WEB.key, ProblemKind.PORT_CONFLICT, "taken")])
    lines = (await bench.monitor._metrics.render()).decode().splitlines()
    assert 'userproxy_problems{kind="out of descriptors"} 3.0' in lines
    assert 'userproxy_problems{kind="port conflict"} 1.0' in lines
    (warning,) = json.loads(bench.monitor._health.healthz(now()).body)["warnings"]
    assert warning.startswith("3 listeners and node ports are not served: the limit of open files")
    bench.monitor.problems_are([])
    assert 'userproxy_problems{kind="out of descriptors"} 0.0' in (await bench.monitor._metrics.render()).decode()
    assert "warnings" not in json.loads(bench.monitor._health.healthz(now()).body)
