"""The affinity table against a plain dictionary that scans everything."""

import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from userproxy.model import Endpoint
from userproxy.routing.affinity import AffinityTable, DiscardedEntries

ENDPOINTS = [Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80), Endpoint("fd00::3", 80)]
BALANCERS = ["internal", "external"]
clients = st.sampled_from(["192.0.2.1", "192.0.2.18", "2001:db8::1", "fe80::1%eth0", "fe80::1%eth1"])
endpoints = st.sampled_from(ENDPOINTS)
balancers = st.sampled_from(BALANCERS)


def a_table(timeout: int, discarded: DiscardedEntries | None = None) -> AffinityTable:
    table = AffinityTable(discarded)
    table.follow("internal", frozenset(ENDPOINTS), timeout)
    return table


class AffinityMachine(RuleBasedStateMachine):
    """Times are milliseconds here, so that the model is exact."""

    def __init__(self) -> None:
        super().__init__()
        self.discarded = DiscardedEntries(lambda: None)
        self.table = AffinityTable(self.discarded)
        self.now = 0
        self.timeout = 10
        self.lists: dict[str, frozenset[Endpoint]] = {}
        self.model: dict[str, tuple[Endpoint, int]] = {}
        self.perhaps: dict[str, tuple[Endpoint, int]] = {}
        """Expired under a shorter timeout that was in force: a longer one may revive them, or find them gone."""

    def alive(self, client: str) -> bool:
        return client in self.model and self.now - self.model[client][1] < self.timeout * 1000

    def settle(self) -> None:
        """What is not in any list is forgotten when the table is next used, not before."""
        listed = frozenset[Endpoint]().union(*self.lists.values())
        self.model = {client: entry for client, entry in self.model.items() if entry[0] in listed}
        self.perhaps = {client: entry for client, entry in self.perhaps.items() if entry[0] in listed}

    def bury(self) -> None:
        for client in [client for client in self.model if not self.alive(client)]:
            self.perhaps[client] = self.model.pop(client)

    @initialize(listed=st.frozensets(endpoints, min_size=1))
    def begin(self, listed: frozenset[Endpoint]) -> None:
        self.follow("internal", listed, self.timeout)

    @rule(milliseconds=st.integers(0, 15_000) | st.sampled_from([0, 9_999, 10_000]))
    def time_passes(self, milliseconds: int) -> None:
        self.now += milliseconds
        self.bury()

    @rule(balancer=balancers, listed=st.frozensets(endpoints), timeout=st.none() | st.integers(1, 20))
    def follow(self, balancer: str, listed: frozenset[Endpoint], timeout: int | None) -> None:
        self.timeout = timeout or self.timeout
        self.lists[balancer] = listed
        self.table.follow(balancer, listed, self.timeout)
        self.bury()

    @rule()
    def swap_the_lists(self) -> None:
        """An endpoint may be in neither list for a moment."""
        before = dict(self.lists)
        for balancer, other in (BALANCERS, BALANCERS[::-1]):
            if other in before:
                self.follow(balancer, before[other], None)

    @rule(balancer=balancers)
    def leave(self, balancer: str) -> None:
        self.table.leave(balancer)
        if self.lists.pop(balancer, None) is not None and not self.lists:
            self.model.clear()
            self.perhaps.clear()

    @rule(balancer=balancers, client=clients, which=st.integers(0, 2))
    def record(self, balancer: str, client: str, which: int) -> None:
        if self.lists.get(balancer):
            listed = sorted(self.lists[balancer])
            endpoint = listed[which % len(listed)]
            self.table.record(client, endpoint, self.now / 1000)
            self.settle()
            self.model[client] = (endpoint, self.now)
            self.perhaps.pop(client, None)

    @rule(balancer=balancers, client=clients)
    def lookup(self, balancer: str, client: str) -> None:
        if balancer not in self.lists:
            return
        found = self.table.lookup(client, self.now / 1000, self.lists[balancer])
        self.settle()
        if client in self.perhaps and found is not None:
            endpoint, last = self.perhaps.pop(client)
            assert found == endpoint
            assert self.now - last < self.timeout * 1000
            self.model[client] = (endpoint, self.now)
        elif self.alive(client) and self.model[client][0] in self.lists[balancer]:
            assert found == self.model[client][0]
            self.model[client] = (found, self.now)
        else:
            assert found is None

    @rule(client=clients)
    def forget(self, client: str) -> None:
        self.table.forget(client)
        self.model.pop(client, None)
        self.perhaps.pop(client, None)

    @rule()
    def expire(self) -> None:
        self.table.expire(self.now / 1000)

    @rule()
    def release(self) -> None:
        while self.discarded.release(1):
            pass

    @invariant()
    def nobody_is_held_twice(self) -> None:
        assert len(self.table) <= 5


TestAffinity = AffinityMachine.TestCase
TestAffinity.settings = settings(max_examples=300, deadline=None)


@given(st.integers(1, 500))
def test_expired_clients_leave_as_new_ones_come(count: int) -> None:
    table = a_table(10)
    for n in range(count):
        table.record(f"10.0.{n // 250}.{n % 250}", ENDPOINTS[0], 0.0)
    for now in (100.0, 110.0):
        for n in range(count):
            table.record(f"10.1.{n // 250}.{n % 250}", ENDPOINTS[0], now)
    assert len(table) == count


@pytest.mark.parametrize(
    "addresses",
    [
        [f"{n >> 24}.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}" for n in (1 << bit for bit in range(32))],
        ["::1", "::2", "fe80::1", "fe80::1%eth0", "fe80::1%eth1", "2001:db8::", "2001:db8::1:0", "2001:db8:1::"],
    ],
    ids=["IPv4, a bit each", "IPv6"],
)
def test_no_client_is_taken_for_another(addresses: list[str]) -> None:
    table = a_table(10)
    for number, address in enumerate(addresses):
        table.record(address, ENDPOINTS[number % 3], 0.0)
    found = [table.lookup(address, 1.0, ENDPOINTS) for address in addresses]
    assert found == [ENDPOINTS[number % 3] for number in range(len(addresses))]


def test_an_endpoint_that_is_gone_is_forgotten_by_all_its_clients() -> None:
    table = a_table(10)
    for client in ("192.0.2.1", "192.0.2.2"):
        table.record(client, ENDPOINTS[0], 0.0)
    table.follow("internal", frozenset(ENDPOINTS[1:]), 10)
    assert table.lookup("192.0.2.3", 1.0, ENDPOINTS) is None
    table.follow("internal", frozenset(ENDPOINTS), 10)
    assert [table.lookup(client, 1.0, ENDPOINTS) for client in ("192.0.2.1", "192.0.2.2")] == [None, None]


def test_an_endpoint_that_only_a_leaving_balancer_had_is_forgotten() -> None:
    table = a_table(10)
    table.follow("external", frozenset(ENDPOINTS[1:]), 10)
    table.record("192.0.2.1", ENDPOINTS[0], 0.0)
    table.leave("internal")
    assert table.lookup("192.0.2.2", 1.0, ENDPOINTS) is None
    table.follow("external", frozenset(ENDPOINTS[:2]), 10)
    assert table.lookup("192.0.2.1", 1.0, ENDPOINTS) is None


def test_expired_clients_leave_without_any_use() -> None:
    table = a_table(10)
    table.record("192.0.2.1", ENDPOINTS[0], 0.0)
    table.expire(9.0)
    assert len(table) == 1
    for now in (10.0, 20.0):
        table.expire(now)
    assert len(table) == 0


@pytest.mark.parametrize("begin", [0.0, 0.1, 4.9, 5.0, 5.1, 9.9, 10.0, 10.1])
def test_no_client_is_forgotten_before_its_time(begin: float) -> None:
    for end, found in ((begin + 9.99, ENDPOINTS[0]), (begin + 10, None)):
        table = a_table(10)
        table.record("192.0.2.1", ENDPOINTS[0], begin)
        for now in range(int(begin) + 1, int(end) + 1):
            table.expire(now)
            table.record("192.0.2.2", ENDPOINTS[1], now)
        assert table.lookup("192.0.2.1", end, ENDPOINTS) == found


def test_endpoints_that_come_and_go_do_not_pile_up() -> None:
    table = AffinityTable()
    for generation in range(1000):
        endpoint = Endpoint("10.0.0.1", generation + 1)
        table.follow("internal", frozenset([endpoint]), 10)
        table.record("192.0.2.1", endpoint, generation * 5.0)
        assert table.lookup("192.0.2.1", generation * 5.0, [endpoint]) == endpoint
    assert len(table._endpoints) < 10


def test_the_place_of_a_gone_endpoint_is_not_given_away_while_a_client_remembers_it() -> None:
    table = a_table(10)
    table.record("192.0.2.1", ENDPOINTS[0], 9.0)
    table.follow("internal", frozenset(ENDPOINTS[1:]), 10)
    for now in (10.0, 12.0, 18.0):
        table.record(f"192.0.2.{now:g}", ENDPOINTS[1], now)
        table.record(f"192.0.2.{now:g}", ENDPOINTS[2], now)
        assert table.lookup("192.0.2.1", now, ENDPOINTS) is None


FORMS: dict[int, Callable[[int], str]] = {
    100_000: lambda n: f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}",
    10_000: lambda n: f"2001:db8:1:2:3:{n >> 16:x}:{n >> 8 & 255:x}:{n & 255:x}",
}


@pytest.mark.slow
@pytest.mark.parametrize("count", FORMS)
def test_a_hundred_thousand_clients_take_less_than_twenty_megabytes(count: int) -> None:
    addresses = [FORMS[count](n) for n in range(count)]
    table = a_table(10)
    tracemalloc.start()
    try:
        for now in (9.0, 10.0):  # the second time all move from one generation to the other
            for n, address in enumerate(addresses):
                table.record(address, ENDPOINTS[n % 3], now)
        size = tracemalloc.get_traced_memory()[0]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(table) == count
    assert not table._old
    assert size <= peak < 200 * count


def test_entries_are_let_go_of_in_steps() -> None:
    wakes = []
    discarded = DiscardedEntries(lambda: wakes.append(1))
    table = a_table(10, discarded)
    for now in (0, 20):
        for n in range(1000):
            table.record(f"10.{now}.{n // 250}.{n % 250}", ENDPOINTS[0], now)
    table.leave("internal")
    assert len(table) == 0
    assert len(wakes) == 1
    steps = 1
    while discarded.release(300):
        steps += 1
    assert steps == 7
    discarded.add({1: 1})
    assert len(wakes) == 2
    assert not discarded.release(300)


def test_entries_of_another_table_are_merged_by_endpoint_and_the_later_one_counts() -> None:
    one, other = a_table(100), a_table(100)
    one.record("192.0.2.1", ENDPOINTS[0], 10)
    one.record("192.0.2.2", ENDPOINTS[0], 12)
    other.record("192.0.2.3", ENDPOINTS[1], 11)  # whose index is that of the other endpoint in the first table
    other.record("192.0.2.1", ENDPOINTS[1], 12)
    other.record("192.0.2.2", ENDPOINTS[1], 11)
    other.record("2001:db8::1", ENDPOINTS[2], 11)
    for entries in other.entries(young=True):
        one.merge(entries, other.state().endpoints)
    clients = ("192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1")
    assert [one.peek(each, 13, ENDPOINTS) for each in clients] == [ENDPOINTS[at] for at in (1, 0, 1, 2)]


def test_an_endpoint_that_is_gone_by_the_time_of_a_merge_is_not_chosen() -> None:
    one, other = a_table(100), a_table(100)
    other.record("192.0.2.1", ENDPOINTS[1], 11)
    one.follow("internal", frozenset(ENDPOINTS[:1]), 100)
    for entries in other.entries(young=True):
        one.merge(entries, other.state().endpoints)
    assert one.lookup("192.0.2.1", 13, ENDPOINTS[:1]) is None
