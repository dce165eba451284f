"""All objects, and what became of each Service."""

import pytest

from tests.cluster.examples import replace
from userproxy.cluster.objects.keys import ClusterObject, object_key
from userproxy.cluster.store import Changes, Store
from userproxy.model import EndpointSlice, IPFamily, Node, Service, ServiceName, ServiceState, SliceEndpoint

WEB = Service("shop", "web", cluster_ips=("10.96.0.10",))
WEB6 = Service("shop", "web", cluster_ips=("fd00::10",))
BOTH = Service("shop", "web", cluster_ips=("10.96.0.10", "fd00::10"))
WEB6_API = Service("shop", "api", cluster_ips=("fd00::11",))
STARTED = 1000.0
NAME = ServiceName("shop", "web")


def a_slice(
    name: str, *addresses: str, service: str = "web", family: str = "IPv4", triggered: float | None = None
) -> EndpointSlice:
    endpoints = tuple(map(SliceEndpoint, addresses))
    return EndpointSlice("shop", name, service, family, endpoints=endpoints, triggered=triggered)


def has_changes(store: Store) -> bool:
    return store.has_changes  # by way of a function, since mypy takes a property to stay what it was


def may_have_changes(store: Store) -> bool:
    return store.may_have_changes


def a_store(*items: ClusterObject) -> tuple[Store, Changes]:
    """A store with objects that the one subscriber, to IPv4, has taken note of."""
    store = Store(started=STARTED)
    changes = store.subscribe(IPFamily.IPV4)
    for item in items:
        store.upsert(item)
    changes.take_changes()
    return store, changes


def test_the_uid_of_a_service_that_is_there() -> None:
    store, _ = a_store(Service("shop", "web", cluster_ips=("10.96.0.10",), uid="0d6e5f6a"), WEB6_API)
    assert [store.uid(ServiceName("shop", name)) for name in ("web", "api", "none")] == ["0d6e5f6a", "", ""]
    store.delete(object_key(WEB))
    assert store.uid(NAME) == ""


def test_a_slice_may_come_before_its_service() -> None:
    store, changes = a_store(a_slice("web-1", "10.244.1.5"))
    assert not has_changes(store)
    store.upsert(WEB)
    assert has_changes(store)
    assert changes.take_changes() == {NAME: ServiceState(WEB, (a_slice("web-1", "10.244.1.5"),))}
    assert not has_changes(store)
    assert changes.take_changes() == {}


def test_the_change_of_one_service_is_taken_alone() -> None:
    api = Service("shop", "api", cluster_ips=("10.96.0.11",))
    store, changes = a_store(WEB, api)
    store.upsert(a_slice("web-1", "10.244.1.5", triggered=STARTED + 1))
    store.upsert(a_slice("api-1", "10.244.1.6", service="api", triggered=STARTED + 2))
    assert list(changes.waiting) == [NAME, api.key]
    changes.take(NAME)
    assert list(changes.waiting) == [api.key]
    assert changes.pending == (0, 2)
    store.upsert(a_slice("web-1", "10.244.1.5", triggered=STARTED + 1))
    assert list(changes.waiting) == [api.key], "nothing has changed since"
    changes.take(api.key)
    assert changes.pending == (0, 0)
    assert not may_have_changes(store)
    store.upsert(a_slice("web-1", "10.244.1.7"))
    assert changes.take_changes() == {NAME: ServiceState(WEB, (a_slice("web-1", "10.244.1.7"),))}


def test_a_slice_without_a_service_never_shows() -> None:
    store, changes = a_store()
    store.upsert(a_slice("web-1"))
    assert not has_changes(store)
    assert changes.take_changes() == {}


def test_a_service_that_goes_before_its_slices_comes_back_with_what_is_left() -> None:
    first, second = a_slice("web-1", "10.244.1.5"), a_slice("web-2", "10.244.1.6")
    store, changes = a_store(WEB, first, second)
    store.delete(object_key(WEB))
    assert changes.take_changes() == {NAME: None}
    store.delete(object_key(first))
    assert changes.take_changes() == {}
    store.upsert(WEB)
    assert changes.take_changes() == {NAME: ServiceState(WEB, (second,))}


def test_slices_come_in_the_order_of_their_names() -> None:
    store, changes = a_store(a_slice("c"), a_slice("a"), a_slice("b"))
    store.upsert(WEB)
    state = changes.take_changes()[NAME]
    assert state is not None
    assert [each.name for each in state.slices] == ["a", "b", "c"]


def test_an_endpoint_that_moves_to_another_slice_is_never_lost() -> None:
    store, changes = a_store(WEB, a_slice("web-1", "10.244.1.5"))
    store.upsert(a_slice("web-2", "10.244.1.5"))
    store.upsert(a_slice("web-1"))
    assert changes.take_changes() == {NAME: ServiceState(WEB, (a_slice("web-1"), a_slice("web-2", "10.244.1.5")))}


def test_a_slice_that_changes_hands_shows_with_both_services() -> None:
    api = Service("shop", "api")
    store, changes = a_store(WEB, api, a_slice("s"))
    store.upsert(a_slice("s", service="api"))
    assert changes.take_changes() == {
        NAME: ServiceState(WEB),
        ServiceName("shop", "api"): ServiceState(api, (a_slice("s", service="api"),)),
    }


def test_a_change_that_is_undone_never_shows() -> None:
    store, changes = a_store(WEB, a_slice("web-1", "10.244.1.5"))
    store.delete(object_key(WEB))
    store.upsert(a_slice("web-1"))
    assert has_changes(store)
    store.upsert(a_slice("web-1", "10.244.1.5"))
    store.upsert(WEB)
    assert not has_changes(store)
    assert changes.take_changes() == {}


def test_services_of_other_namespaces_are_others() -> None:
    other = Service("blog", "web")
    store, changes = a_store(WEB, other, a_slice("web-1"))
    store.delete(object_key(other))
    assert changes.take_changes() == {other.key: None}


def test_nodes_are_changes_of_their_own() -> None:
    node = Node("worker-1", ("192.168.0.1",))
    store, changes = a_store()
    store.upsert(node)
    assert has_changes(store)
    assert changes.take_changes() == {}
    assert not has_changes(store)
    assert store.nodes == {"worker-1": node}
    assert (store.node("worker-1"), store.node("worker-2")) == (node, None)
    store.upsert(Node("worker-1", ("192.168.0.2",)))
    assert has_changes(store)
    store.upsert(node)
    assert not has_changes(store)
    store.delete(object_key(node))
    assert has_changes(store)
    assert not store.nodes


def test_a_new_list_replaces_its_kind_and_no_other() -> None:
    api = Service("shop", "api")
    store, changes = a_store(WEB, a_slice("web-1"), Node("worker-1"))
    replace(store, Service, [api])
    assert changes.take_changes() == {NAME: None, api.key: ServiceState(api)}
    assert list(store.nodes) == ["worker-1"]
    replace(store, Service, [api, WEB])
    assert changes.take_changes() == {NAME: ServiceState(WEB, (a_slice("web-1"),))}


def two_subscribers(*items: ClusterObject) -> tuple[Store, Changes, Changes]:
    store = Store()
    both = store.subscribe(IPFamily.IPV4), store.subscribe(IPFamily.IPV6)
    for item in items:
        store.upsert(item)
    for changes in both:
        changes.take_changes()
    return store, *both


def test_each_family_gets_its_services_and_its_slices() -> None:
    four, six = a_slice("web-4", "10.244.1.5"), a_slice("web-6", "fd00::5", family="IPv6")
    store, changes4, changes6 = two_subscribers()
    for item in (four, six, BOTH):
        store.upsert(item)
    assert changes4.take_changes() == {NAME: ServiceState(BOTH, (four,))}
    assert [changes4.pending, changes6.pending] == [(0, 0), (1, 1)]
    assert has_changes(store)
    assert changes6.take_changes() == {NAME: ServiceState(BOTH, (six,))}
    assert changes6.pending == (0, 0)
    assert not has_changes(store)


def test_a_slice_costs_the_other_family_nothing() -> None:
    store, changes4, changes6 = two_subscribers(BOTH, a_slice("web-4"))
    store.upsert(a_slice("web-4", "10.244.1.5"))
    assert list(changes4.waiting) == [NAME]
    assert not changes6.waiting
    assert changes6.take_changes() == {}


def test_a_service_of_one_family_costs_the_other_nothing() -> None:
    store, changes4, changes6 = two_subscribers()
    store.upsert(WEB)
    store.upsert(a_slice("web-6", "fd00::5", family="IPv6"))
    assert list(changes4.waiting) == [NAME]
    assert not changes6.waiting
    assert (changes4.take_changes(), changes6.take_changes()) == ({NAME: ServiceState(WEB)}, {})
    store.delete(object_key(WEB))
    assert (changes4.take_changes(), changes6.take_changes()) == ({NAME: None}, {})
    assert not has_changes(store)


def test_a_service_that_moves_to_the_other_family_is_gone_from_the_one() -> None:
    six = a_slice("web-6", "fd00::5", family="IPv6")
    store, changes4, changes6 = two_subscribers(WEB, six)
    store.upsert(WEB6)
    assert changes4.take_changes() == {NAME: None}
    assert changes6.take_changes() == {NAME: ServiceState(WEB6, (six,))}


def test_a_slice_that_moves_to_the_other_family_changes_both() -> None:
    store, changes4, changes6 = two_subscribers(BOTH, a_slice("web-1", "10.244.1.5"))
    moved = a_slice("web-1", "fd00::5", family="IPv6")
    store.upsert(moved)
    assert changes4.take_changes() == {NAME: ServiceState(BOTH)}
    assert changes6.take_changes() == {NAME: ServiceState(BOTH, (moved,))}


def test_a_service_without_an_address_is_of_either_family() -> None:
    """Whoever serves it says why he does not."""
    headless = Service("shop", "web")
    store, *both = two_subscribers()
    store.upsert(headless)
    for changes in both:
        assert changes.take_changes() == {NAME: ServiceState(headless)}


def test_who_subscribes_late_gets_all_there_is() -> None:
    store, _ = a_store(WEB, WEB6_API, a_slice("web-1"))
    assert not has_changes(store)
    late = store.subscribe(IPFamily.IPV4)
    assert has_changes(store)
    assert late.take_changes() == {NAME: ServiceState(WEB, (a_slice("web-1"),))}
    assert store.subscribe(IPFamily.IPV6).take_changes() == {WEB6_API.key: ServiceState(WEB6_API)}


def test_without_a_subscriber_nothing_is_kept_for_anybody() -> None:
    store = Store()
    store.upsert(WEB)
    assert not has_changes(store)


def test_pending_counts_services_of_the_family_and_every_change_of_a_slice() -> None:
    store, changes4, changes6 = two_subscribers()
    store.upsert(BOTH)
    store.upsert(WEB6_API)
    assert [changes4.pending, changes6.pending] == [(1, 0), (2, 0)]
    for address in ("10.244.1.5", "10.244.1.6"):
        store.upsert(a_slice("web-4", address))
    assert [changes4.pending, changes6.pending] == [(1, 2), (2, 0)]
    changes6.everything()
    assert [changes4.pending, changes6.pending] == [(1, 2), (0, 0)]


def test_everything_is_all_there_is_and_takes_the_changes() -> None:
    api, gone = Service("shop", "api", cluster_ips=("10.96.0.11",)), Service("shop", "gone")
    store, changes = a_store(WEB, gone, WEB6_API, Node("worker-1"))
    store.delete(object_key(gone))
    store.upsert(api)
    store.upsert(a_slice("web-1"))
    store.upsert(Node("worker-1", zone="b"))
    assert changes.everything() == {NAME: ServiceState(WEB, (a_slice("web-1"),)), api.key: ServiceState(api)}
    assert not has_changes(store)
    assert changes.take_changes() == {}
    store.delete(object_key(api))
    assert changes.take_changes() == {api.key: None}


def test_triggers_are_taken_once_and_by_each_subscriber_of_the_family() -> None:
    store, changes = a_store(WEB)
    other, six = store.subscribe(IPFamily.IPV4), store.subscribe(IPFamily.IPV6)
    store.upsert(a_slice("web-1", triggered=STARTED + 1))
    store.upsert(a_slice("web-2", triggered=STARTED + 2))
    store.upsert(a_slice("web-1", "10.244.1.5", triggered=STARTED + 3))
    store.upsert(a_slice("web-3"))
    assert sorted(changes.take_triggers()) == [STARTED + 1, STARTED + 2, STARTED + 3]
    assert changes.take_triggers() == []
    assert len(other.take_triggers()) == 3
    assert six.take_triggers() == []


@pytest.mark.parametrize("triggered", [STARTED - 1, STARTED, -1.0, None])
def test_what_was_triggered_before_the_start_does_not_count(triggered: float | None) -> None:
    store, changes = a_store(WEB)
    store.upsert(a_slice("web-1", triggered=triggered))
    assert changes.take_triggers() == []


def test_the_same_slice_again_triggers_nothing() -> None:
    store, changes = a_store(WEB)
    for _ in range(2):
        store.upsert(a_slice("web-1", triggered=STARTED + 1))
    replace(store, EndpointSlice, [a_slice("web-1", triggered=STARTED + 1)])
    assert changes.take_triggers() == [STARTED + 1]


def test_a_slice_that_goes_takes_along_the_triggers_of_its_service() -> None:
    api = Service("shop", "api")
    store, changes = a_store(WEB, api)
    store.upsert(a_slice("web-1", triggered=STARTED + 1))
    store.upsert(a_slice("web-2", triggered=STARTED + 2))
    store.upsert(a_slice("api-1", service="api", triggered=STARTED + 3))
    store.delete(object_key(a_slice("web-1")))
    assert changes.take_triggers() == [STARTED + 3]


def test_a_slice_that_changes_hands_is_a_trigger_of_its_new_service_alone() -> None:
    store, changes = a_store(WEB, Service("shop", "api"))
    store.upsert(a_slice("s", triggered=STARTED + 1))
    store.upsert(a_slice("s", service="api", triggered=STARTED + 2))
    assert changes.take_triggers() == [STARTED + 2]


def test_slices_of_services_that_are_not_there_trigger_nothing() -> None:
    store, changes = a_store(WEB6_API)
    store.upsert(a_slice("web-1", triggered=STARTED + 1))
    store.upsert(a_slice("api-1", service="api", triggered=STARTED + 1))
    assert changes.take_triggers() == []
    store.upsert(a_slice("web-2", triggered=STARTED + 2))
    store.upsert(WEB)  # a slice may come before its Service
    assert changes.take_triggers() == [STARTED + 2]


def test_there_may_be_changes_until_they_are_taken_even_if_they_were_undone() -> None:
    store, changes = a_store(WEB, a_slice("web-1", "10.244.1.5"))
    assert not may_have_changes(store)
    store.upsert(a_slice("web-1", "10.244.1.6"))
    store.upsert(a_slice("web-1", "10.244.1.5"))
    assert may_have_changes(store)
    assert not has_changes(store)
    assert changes.take_changes() == {}
    assert not may_have_changes(store)


def test_a_node_may_be_a_change() -> None:
    store, changes = a_store()
    store.upsert(Node("node-1"))
    assert may_have_changes(store)
    changes.take_changes()
    assert not may_have_changes(store)


def test_the_one_slice_of_a_service_is_replaced_and_another_one_comes_beside_it() -> None:
    store, changes = a_store(WEB, a_slice("web-2", "10.244.1.5"))
    store.upsert(a_slice("web-2", "10.244.1.6"))
    assert changes.take_changes() == {NAME: ServiceState(WEB, (a_slice("web-2", "10.244.1.6"),))}
    store.upsert(a_slice("web-1", "10.244.1.7"))
    both = (a_slice("web-1", "10.244.1.7"), a_slice("web-2", "10.244.1.6"))
    assert changes.take_changes() == {NAME: ServiceState(WEB, both)}


def test_objects_of_a_kind_are_counted_and_named_while_others_change() -> None:
    slices = [a_slice("one"), a_slice("two", service="api"), a_slice("six", family="IPv6")]
    store, _ = a_store(WEB, WEB6_API, Node("worker-1"), *slices)
    kinds: tuple[type[ClusterObject], ...] = (Service, EndpointSlice, Node)
    assert [store.count(kind) for kind in kinds] == [2, 3, 1]
    found = []
    for number, key in enumerate(store.keys(EndpointSlice)):
        found.append(key)
        store.upsert(Service("shop", f"new-{number}", cluster_ips=("10.96.0.99",)))
    assert sorted(found) == sorted(map(object_key, slices))
    assert [len(list(store.keys(kind))) for kind in kinds] == [store.count(kind) for kind in kinds] == [5, 3, 1]
