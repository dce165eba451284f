"""What a running proxy answers about itself, with both families in it."""

from userproxy.cluster.store import Changes, Store
from userproxy.config import Settings
from userproxy.model import EndpointSlice, IPFamily, Service
from userproxy.wiring.monitor import Monitor

WEB = Service("shop", "web", cluster_ips=("10.96.0.10", "fd00::10"))


class Bench:
    """A Monitor of both families beside a Store of which neither has taken anything."""

    def __init__(self) -> None:
        self.store = Store()
        self.changes: dict[IPFamily, Changes] = {family: self.store.subscribe(family) for family in IPFamily}
        self.monitor = Monitor(Settings(), IPFamily)
        for family, changes in self.changes.items():
            self.monitor.family(family).count_pending(lambda changes=changes: changes.pending)  # type: ignore[misc]

    def sync(self, family: IPFamily) -> None:
        with self.monitor.family(family).syncing(()) as outcome:
            self.changes[family].take_changes()
            outcome.ok = True

    async def waiting(self) -> list[float]:
        text = (await self.monitor._metrics.render()).decode().splitlines()
        names = [f"kubeproxy_sync_proxy_rules_{kind}_changes_pending " for kind in ("service", "endpoint")]
        return [float(line.split()[1]) for name in names for line in text if line.startswith(name)]


async def test_a_family_that_syncs_takes_nothing_from_what_waits_for_the_other() -> None:
    bench = Bench()
    bench.store.upsert(WEB)
    for number in range(3):
        bench.store.upsert(EndpointSlice("shop", f"web-{number}", "web", "IPv6"))
    bench.monitor.queued(bench.store.events)
    assert await bench.waiting() == [2, 3]
    bench.sync(IPFamily.IPV4)
    assert await bench.waiting() == [1, 3]
    bench.sync(IPFamily.IPV6)
    assert await bench.waiting() == [0, 0]
