"""The affinity table against a plain dictionary that scans everything."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from userproxy.model import Endpoint
from userproxy.routing.affinity import AffinityTable

ENDPOINTS = [Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80), Endpoint("10.0.0.3", 80)]
clients = st.sampled_from([f"192.0.2.{n}" for n in range(6)])
endpoints = st.sampled_from(ENDPOINTS)


class AffinityMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table = AffinityTable(10)
        self.now = 0.0
        self.model: dict[str, tuple[Endpoint, float]] = {}

    @rule(seconds=st.floats(0, 15))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(client=clients, endpoint=endpoints)
    def record(self, client: str, endpoint: Endpoint) -> None:
        self.table.record(client, endpoint, self.now)
        self.model[client] = (endpoint, self.now)

    @rule(client=clients)
    def lookup(self, client: str) -> None:
        endpoint, last = self.model.get(client, (None, 0.0))
        alive = endpoint is not None and self.now - last < self.table.timeout
        assert self.table.lookup(client, self.now) == (endpoint if alive else None)
        if alive and endpoint is not None:
            self.model[client] = (endpoint, self.now)

    @rule(client=clients)
    def forget(self, client: str) -> None:
        self.table.forget(client)
        self.model.pop(client, None)

    @rule(kept=st.sets(endpoints))
    def retain(self, kept: set[Endpoint]) -> None:
        self.table.retain(kept)
        self.model = {client: entry for client, entry in self.model.items() if entry[0] in kept}

    @rule(timeout=st.integers(1, 20))
    def edit_timeout(self, timeout: int) -> None:
        # What a longer timeout would revive may have been dropped already; the model forgets it as well.
        self.model = {c: e for c, e in self.model.items() if self.now - e[1] < self.table.timeout}
        for client in list(self.model):
            self.table.lookup(client, self.model[client][1])
        self.table = AffinityTable(timeout)
        for client, (endpoint, last) in sorted(self.model.items(), key=lambda item: item[1][1]):
            self.table.record(client, endpoint, last)

    @invariant()
    def never_larger_than_all_clients(self) -> None:
        assert len(self.table) <= len(self.model)


TestAffinity = AffinityMachine.TestCase


@given(st.integers(1, 500))
def test_expired_clients_leave_as_new_ones_come(count: int) -> None:
    table = AffinityTable(10)
    for n in range(count):
        table.record(f"old-{n}", ENDPOINTS[0], 0.0)
    for n in range(count):
        table.record(f"new-{n}", ENDPOINTS[0], 100.0)
    assert len(table) == count
