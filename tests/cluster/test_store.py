"""All objects, and what became of each Service."""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from hypothesis import given
from hypothesis import strategies as st

from userproxy.cluster.store import ClusterObject, ObjectKey, Store, object_key
from userproxy.model import EndpointSlice, Node, Service, ServiceName, ServiceState, SliceEndpoint

WEB = Service("shop", "web", cluster_ips=("10.96.0.10",))
NAME = ServiceName("shop", "web")

States: TypeAlias = dict[ServiceName, ServiceState]
Step: TypeAlias = ClusterObject | ObjectKey | tuple[type[ClusterObject], Sequence[ClusterObject]] | None


def a_slice(name: str, *addresses: str, service: str = "web") -> EndpointSlice:
    return EndpointSlice("shop", name, service, "IPv4", endpoints=tuple(map(SliceEndpoint, addresses)))


def has_changes(store: Store) -> bool:
    return store.has_changes  # by way of a function, since mypy takes a property to stay what it was


def a_store(*items: ClusterObject) -> Store:
    """A store with objects that have been taken note of."""
    store = Store()
    for item in items:
        store.upsert(item)
    store.take_changes()
    return store


def test_a_slice_may_come_before_its_service() -> None:
    store = a_store(a_slice("web-1", "10.244.1.5"))
    assert not has_changes(store)
    store.upsert(WEB)
    assert has_changes(store)
    assert store.take_changes() == {NAME: ServiceState(WEB, (a_slice("web-1", "10.244.1.5"),))}
    assert not has_changes(store)
    assert store.take_changes() == {}


def test_a_slice_without_a_service_never_shows() -> None:
    store = Store()
    store.upsert(a_slice("web-1"))
    assert not has_changes(store)
    assert store.take_changes() == {}


def test_a_service_that_goes_before_its_slices_comes_back_with_what_is_left() -> None:
    first, second = a_slice("web-1", "10.244.1.5"), a_slice("web-2", "10.244.1.6")
    store = a_store(WEB, first, second)
    store.delete(object_key(WEB))
    assert store.take_changes() == {NAME: None}
    store.delete(object_key(first))
    assert store.take_changes() == {}
    store.upsert(WEB)
    assert store.take_changes() == {NAME: ServiceState(WEB, (second,))}


def test_slices_come_in_the_order_of_their_names() -> None:
    store = a_store(a_slice("c"), a_slice("a"), a_slice("b"))
    store.upsert(WEB)
    state = store.take_changes()[NAME]
    assert state is not None
    assert [each.name for each in state.slices] == ["a", "b", "c"]


def test_an_endpoint_that_moves_to_another_slice_is_never_lost() -> None:
    store = a_store(WEB, a_slice("web-1", "10.244.1.5"))
    store.upsert(a_slice("web-2", "10.244.1.5"))
    store.upsert(a_slice("web-1"))
    assert store.take_changes() == {NAME: ServiceState(WEB, (a_slice("web-1"), a_slice("web-2", "10.244.1.5")))}


def test_a_slice_that_changes_hands_shows_with_both_services() -> None:
    api = Service("shop", "api")
    store = a_store(WEB, api, a_slice("s"))
    store.upsert(a_slice("s", service="api"))
    assert store.take_changes() == {
        NAME: ServiceState(WEB),
        ServiceName("shop", "api"): ServiceState(api, (a_slice("s", service="api"),)),
    }


def test_a_change_that_is_undone_never_shows() -> None:
    store = a_store(WEB, a_slice("web-1", "10.244.1.5"))
    store.delete(object_key(WEB))
    store.upsert(a_slice("web-1"))
    assert has_changes(store)
    store.upsert(a_slice("web-1", "10.244.1.5"))
    store.upsert(WEB)
    assert not has_changes(store)
    assert store.take_changes() == {}


def test_services_of_other_namespaces_are_others() -> None:
    other = Service("blog", "web")
    store = a_store(WEB, other, a_slice("web-1"))
    store.delete(object_key(other))
    assert store.take_changes() == {other.key: None}


def test_nodes_are_changes_of_their_own() -> None:
    node = Node("worker-1", ("192.168.0.1",))
    store = Store()
    store.upsert(node)
    assert has_changes(store)
    assert store.take_changes() == {}
    assert not has_changes(store)
    assert store.nodes == {"worker-1": node}
    store.upsert(Node("worker-1", ("192.168.0.2",)))
    assert has_changes(store)
    store.upsert(node)
    assert not has_changes(store)
    store.delete(object_key(node))
    assert has_changes(store)
    assert not store.nodes


def test_a_new_list_replaces_its_kind_and_no_other() -> None:
    api = Service("shop", "api")
    store = a_store(WEB, a_slice("web-1"), Node("worker-1"))
    store.replace(Service, [api])
    assert store.take_changes() == {NAME: None, api.key: ServiceState(api)}
    assert list(store.nodes) == ["worker-1"]
    store.replace(Service, [api, WEB])
    assert store.take_changes() == {NAME: ServiceState(WEB, (a_slice("web-1"),))}


def test_a_key_prints_as_people_write_it() -> None:
    assert str(object_key(WEB)) == "Service shop/web"
    assert str(object_key(Node("worker-1"))) == "Node worker-1"


services = st.builds(
    Service,
    namespace=st.just("shop"),
    name=st.sampled_from(["web", "api"]),
    cluster_ips=st.sampled_from([(), ("10.96.0.1",)]),
)
slices = st.builds(
    lambda name, service, addresses: a_slice(name, *addresses, service=service),
    st.sampled_from(["s1", "s2", "s3"]),
    st.sampled_from(["web", "api", "nobody"]),
    st.sampled_from([(), ("10.244.1.5",)]),
)
nodes = st.builds(Node, name=st.sampled_from(["n1", "n2"]), zone=st.sampled_from([None, "a"]))
objects: st.SearchStrategy[ClusterObject] = st.one_of(services, slices, nodes)
replacements = st.one_of(
    st.tuples(st.just(Service), st.lists(services)),
    st.tuples(st.just(EndpointSlice), st.lists(slices)),
    st.tuples(st.just(Node), st.lists(nodes)),
)
steps = st.one_of(objects, objects.map(object_key), replacements, st.none())
"""An object to upsert, a key to delete, a new list of a kind, or None to take the changes."""


def states_of(items: Iterable[ClusterObject]) -> States:
    """What a Store should say of these objects, worked out from scratch."""
    everything = list(items)
    return {
        service.key: ServiceState(
            service,
            tuple(
                sorted(
                    (s for s in everything if isinstance(s, EndpointSlice) and s.service_name == service.key),
                    key=lambda s: s.name,
                )
            ),
        )
        for service in everything
        if isinstance(service, Service)
    }


@given(st.lists(steps, max_size=40))
def test_whatever_happens_the_changes_lead_to_the_final_content(history: list[Step]) -> None:
    store = Store()
    content: dict[ObjectKey, ClusterObject] = {}
    known: States = {}
    for step in [*history, None]:
        match step:
            case None:
                take(store, known, content)
            case ObjectKey():
                store.delete(step)
                content.pop(step, None)
            case (kind, items):
                store.replace(kind, items)
                content = {key: item for key, item in content.items() if not isinstance(item, kind)}
                content |= {object_key(item): item for item in items}
            case _:
                store.upsert(step)
                content[object_key(step)] = step


def take(store: Store, known: States, content: dict[ObjectKey, ClusterObject]) -> None:
    """Follow the changes as the proxier does: what did not change must not show, and nothing may be missed."""
    final = states_of(content.values())
    assert store.has_changes or known == final
    changes = store.take_changes()
    assert all(known.get(name) != state for name, state in changes.items())
    for name, state in changes.items():
        if state is None:
            del known[name]
        else:
            known[name] = state
    assert known == final
    assert store.nodes == {item.name: item for item in content.values() if isinstance(item, Node)}
    assert not store.has_changes
