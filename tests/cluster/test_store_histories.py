"""The Store through histories drawn at random: whatever happens, the changes lead to what is there in the end."""

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import TypeAlias

from hypothesis import given
from hypothesis import strategies as st

from tests.cluster.examples import replace
from tests.cluster.test_store import a_slice
from userproxy.cluster.objects.keys import ClusterObject, ObjectKey, object_key
from userproxy.cluster.store import Store
from userproxy.model import EndpointSlice, IPFamily, Node, Service, ServiceName, ServiceState

States: TypeAlias = dict[ServiceName, ServiceState]


class Look(Enum):
    """Which families' subscribers look at what."""

    IPV4 = (IPFamily.IPV4,)
    IPV6 = (IPFamily.IPV6,)
    EVERYTHING = (IPFamily.IPV4, IPFamily.IPV6)


Step: TypeAlias = ClusterObject | ObjectKey | tuple[type[ClusterObject], Sequence[ClusterObject]] | Look


services = st.builds(
    Service,
    namespace=st.just("shop"),
    name=st.sampled_from(["web", "api"]),
    cluster_ips=st.sampled_from([(), ("10.96.0.1",), ("fd00::1",), ("10.96.0.1", "fd00::1")]),
)
slices = st.builds(
    lambda name, service, addresses, family: a_slice(name, *addresses, service=service, family=family),
    st.sampled_from(["s1", "s2", "s3"]),
    st.sampled_from(["web", "api", "nobody"]),
    st.sampled_from([(), ("10.244.1.5",)]),
    st.sampled_from(["IPv4", "IPv6"]),
)
nodes = st.builds(Node, name=st.sampled_from(["n1", "n2"]), zone=st.sampled_from([None, "a"]))
objects: st.SearchStrategy[ClusterObject] = st.one_of(services, slices, nodes)
replacements = st.one_of(
    st.tuples(st.just(Service), st.lists(services)),
    st.tuples(st.just(EndpointSlice), st.lists(slices)),
    st.tuples(st.just(Node), st.lists(nodes)),
)
steps = st.one_of(objects, objects.map(object_key), replacements, st.sampled_from(Look))
"""An object to upsert, a key to delete, a new list of a kind, or how a subscriber looks."""


def states_of(items: Iterable[ClusterObject], family: IPFamily) -> States:
    """What a Store should say of these objects, worked out from scratch."""
    everything = list(items)
    slices = sorted(
        (item for item in everything if isinstance(item, EndpointSlice) and item.address_type == family),
        key=lambda part: part.name,
    )
    return {
        service.key: ServiceState(service, tuple(part for part in slices if part.service_name == service.key))
        for service in everything
        if isinstance(service, Service)
        if not service.cluster_ips or any((":" in ip) == (family == "IPv6") for ip in service.cluster_ips)
    }


class Follower:
    """Follows the changes as a proxier does: what did not change must not show, and nothing may be missed."""

    def __init__(self, store: Store, family: IPFamily) -> None:
        self.family = family
        self._changes = store.subscribe(family)
        self._known: States = {}

    def look(self, content: Mapping[ObjectKey, ClusterObject], *, everything: bool) -> None:
        final = states_of(content.values(), self.family)
        assert self._changes.has_changes or self._known == final
        if everything:
            self._known = dict(self._changes.everything())
        else:
            changes = self._changes.take_changes()
            assert all(self._known.get(name) != state for name, state in changes.items())
            assert changes.keys() <= self._known.keys() | final.keys()
            self._known |= {name: state for name, state in changes.items() if state is not None}
            for name in (name for name, state in changes.items() if state is None):
                del self._known[name]
        assert self._known == final
        assert not self._changes.has_changes
        assert not self._changes.waiting


@given(st.lists(steps, max_size=40), st.integers(0, 40))
def test_whatever_happens_the_changes_lead_to_the_final_content(history: list[Step], late: int) -> None:
    store = Store()
    content: dict[ObjectKey, ClusterObject] = {}
    followers = [Follower(store, IPFamily.IPV4), Follower(store, IPFamily.IPV6)]
    for number, step in enumerate([*history, *Look]):
        if number == late:
            followers.append(Follower(store, IPFamily.IPV6))
        match step:
            case Look():
                for follower in followers:
                    if follower.family in step.value:
                        follower.look(content, everything=step is Look.EVERYTHING)
            case ObjectKey():
                store.delete(step)
                content.pop(step, None)
            case (kind, items):
                replace(store, kind, items)
                content = {key: item for key, item in content.items() if not isinstance(item, kind)}
                content |= {object_key(item): item for item in items}
            case _:
                store.upsert(step)
                content[object_key(step)] = step
    assert store.nodes == {item.name: item for item in content.values() if isinstance(item, Node)}
    assert not store.has_changes
