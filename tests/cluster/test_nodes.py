"""Our own Node, which addresses are those of Nodes, and how that is looked up without a storm."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
from msgspec import Struct
from structlog.testing import capture_logs

from tests.cluster.minimal_api import MinimalApi, minimal_api
from userproxy.cluster.client import open_client
from userproxy.cluster.credentials import ApiAccess
from userproxy.cluster.nodes import LookupTiming, NodeAddresses, NodeLookup, own_node_name, wait_for_addresses
from userproxy.cluster.objects.keys import ObjectKey
from userproxy.cluster.store import Store
from userproxy.model import Node


@pytest.mark.parametrize(
    ("override", "host", "wanted"), [("", " Worker-1.Lan\n", "worker-1.lan"), (" Mine ", "host", "mine")]
)
def test_the_own_node_is_called(override: str, host: str, wanted: str) -> None:
    assert own_node_name(override, host) == wanted


@pytest.mark.parametrize("listed", [False, True])
async def test_serving_without_a_node(listed: bool) -> None:
    store = Store()
    with capture_logs() as logs:
        assert await wait_for_addresses(store, "n", lambda: listed, limit=0.01) is None
        store.upsert(Node("n"))
        assert await wait_for_addresses(store, "n", lambda: listed, limit=0.01) == Node("n")
        store.upsert(Node("n", ("192.168.0.1",)))
        assert await wait_for_addresses(store, "n", lambda: listed, limit=0.01) == Node("n", ("192.168.0.1",))
    missing = "is not in the API" if listed else "has not been read from the API server yet"
    assert [each["event"] for each in logs] == [
        f"Our Node {missing}; serving without",
        "Our Node has no addresses; serving without",
    ]


HERE, THERE, POD = "192.0.2.10", "192.0.2.11", "10.244.1.5"


def test_with_manifests_the_nodes_of_the_store_are_all() -> None:
    store = Store()
    nodes = NodeAddresses(store, looks_up=False)
    store.upsert(Node("node-1", (HERE, "2001:db8::10")))
    assert HERE in nodes
    assert "2001:db8::10" in nodes
    assert THERE not in nodes
    assert not nodes.questions
    before = nodes.version
    store.upsert(Node("node-1", (HERE, "2001:db8::10"), zone="a"))
    assert nodes.version == before, "the addresses are the same"
    store.upsert(Node("node-2", (THERE,)))
    assert nodes.version != before
    assert THERE in nodes
    store.delete(ObjectKey("Node", "", "node-2"))
    assert THERE not in nodes


def test_until_the_first_answer_an_unknown_address_counts_as_a_nodes() -> None:
    nodes = NodeAddresses(Store(), looks_up=True)
    rung: list[int] = []
    nodes.on_question = lambda: rung.append(1)
    assert POD in nodes
    assert THERE in nodes
    assert rung == [1], "once until there is an answer"
    assert nodes.questions == {POD, THERE}
    before = nodes.version
    nodes.answer(nodes.questions, [HERE, THERE])
    assert nodes.version != before
    assert (POD in nodes, THERE in nodes, HERE in nodes) == (False, True, True)
    assert nodes.questions == {HERE}, "HERE is asked for the first time"


def test_what_nobody_asks_about_is_no_question() -> None:
    store = Store()
    nodes = NodeAddresses(store, looks_up=True)
    store.upsert(Node("node-1", (HERE,)))
    assert HERE in nodes
    assert not nodes.questions


def test_later_an_unknown_address_counts_as_a_pods() -> None:
    nodes = NodeAddresses(Store(), looks_up=True)
    nodes.answer([], [HERE])
    assert THERE not in nodes
    assert nodes.questions == {THERE}
    before = nodes.version
    nodes.answer(nodes.questions, [HERE])
    assert nodes.version == before, "no answer is another one"
    assert not nodes.questions
    assert THERE not in nodes
    assert not nodes.questions, "it is known"


def test_without_an_answer_nothing_is_presumed_any_longer() -> None:
    nodes = NodeAddresses(Store(), looks_up=True)
    assert POD in nodes
    before = nodes.version
    nodes.stop_presuming()
    assert nodes.version != before
    assert not nodes.presuming
    assert POD not in nodes
    assert nodes.questions == {POD}
    again = nodes.version
    nodes.stop_presuming()
    assert nodes.version == again


def test_old_answers_are_asked_for_again_and_hold_until_then() -> None:
    nodes = NodeAddresses(Store(), looks_up=True)
    nodes.answer([POD, THERE], [THERE])
    nodes.forget_answers()
    assert (POD in nodes, THERE in nodes) == (False, True)
    assert nodes.questions == {POD, THERE}
    nodes.answer(nodes.questions, [POD])
    assert (POD in nodes, THERE in nodes) == (True, False), "addresses change hands"


def test_answers_about_endpoints_that_come_and_go_do_not_pile_up() -> None:
    nodes = NodeAddresses(Store(), looks_up=True)
    for batch in range(30):
        nodes.answer([f"10.{batch}.{number // 256}.{number % 256}" for number in range(1000)], [])
    remembered = sum(f"10.{batch}.0.1" not in nodes and not nodes.questions for batch in range(30))
    assert remembered == 0
    assert len(nodes._answered) <= 11_000


NODES = "/api/v1/nodes"
QUICK = LookupTiming(spread=0.0, give_up_after=5.0, shortest_pause=0.05, longest_pause=0.2, valid_for=60.0)
PATIENT = LookupTiming(spread=0.0, give_up_after=5.0, shortest_pause=600.0, longest_pause=600.0, valid_for=600.0)


def a_node(name: str, *addresses: tuple[str, str]) -> dict[str, Any]:
    listed = [{"type": kind, "address": address} for kind, address in addresses]
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {"name": name},
        "status": {"addresses": listed, "images": [{"names": ["nginx"], "sizeBytes": 1}]},
    }


class Looked(Struct):
    """A lookup that runs, and what it was heard to say."""

    server: MinimalApi
    nodes: NodeAddresses
    changes: list[int]

    async def until(self, version: int) -> None:
        """Return once answers are others than at `version`."""
        async with asyncio.timeout(10):
            while self.nodes.version == version:
                await asyncio.sleep(0.005)

    @property
    def lists(self) -> int:
        return self.server.counts["list", NODES]


@asynccontextmanager
async def looking_up(timing: LookupTiming, *documents: dict[str, Any]) -> AsyncIterator[Looked]:
    async with minimal_api() as server:
        for document in documents:
            server.put(document)
        client = await open_client(ApiAccess(master=server.url))
        nodes = NodeAddresses(Store(), looks_up=True)
        changes: list[int] = []
        lookup = NodeLookup(client, nodes, lambda: changes.append(nodes.version), Random(1), timing)
        try:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(lookup.run(), name="look up Nodes")
                yield Looked(server, nodes, changes)
                task.cancel()
        finally:
            await client.close()


async def test_nothing_is_listed_until_somebody_asks() -> None:
    async with looking_up(QUICK, a_node("node-2", ("InternalIP", "192.0.2.11"))) as looked:
        await asyncio.sleep(0.1)
        assert looked.lists == 0
        before = looked.nodes.version
        assert "10.244.1.5" in looked.nodes, "presumed"
        await looked.until(before)
        assert "10.244.1.5" not in looked.nodes
        assert "192.0.2.11" in looked.nodes
        assert looked.lists == 1
        assert looked.changes == [looked.nodes.version]


async def test_addresses_of_every_family_type_and_spelling() -> None:
    node = a_node(
        "node-2",
        ("Hostname", "192.0.2.99"),
        ("InternalIP", "192.0.2.11"),
        ("InternalIP", "2001:DB8:0::0011"),
        ("ExternalIP", "203.0.113.7"),
        ("InternalIP", "nonsense"),
    )
    broken = {"kind": "Node", "metadata": {"name": "broken"}, "status": {"addresses": [{"address": 5}]}}
    bare = {"kind": "Node", "metadata": {"name": "bare"}}
    async with looking_up(QUICK, node, broken, bare) as looked:
        before = looked.nodes.version
        assert "192.0.2.99" in looked.nodes
        await looked.until(before)
        known = {"192.0.2.11", "2001:db8::11", "203.0.113.7"}
        assert {each for each in (*known, "192.0.2.99", "nonsense") if each in looked.nodes} == known


async def test_a_thousand_nodes_come_in_pages() -> None:
    many = [a_node(f"node-{number}", ("InternalIP", f"10.0.{number // 256}.{number % 256}")) for number in range(1001)]
    async with looking_up(QUICK, *many) as looked:
        before = looked.nodes.version
        looked.server.expire_pages(1)
        assert "10.1.0.0" in looked.nodes
        await looked.until(before)
        assert all(f"10.0.{number // 256}.{number % 256}" in looked.nodes for number in range(1001))
        versions = [query.get("resourceVersion") for path, query, _ in looked.server.requests if path == NODES]
        assert versions[0] == "0", "whatever the server has at hand"


async def test_new_questions_make_no_storm() -> None:
    """A hostile author can ask as often as a slice may be written."""
    async with looking_up(PATIENT, a_node("node-2", ("InternalIP", "192.0.2.11"))) as looked:
        before = looked.nodes.version
        assert "10.0.0.0" in looked.nodes
        await looked.until(before)
        for number in range(1, 200):
            assert f"10.0.0.{number}" not in looked.nodes, "a Pod is not kept waiting"
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        assert looked.lists == 1


async def test_a_node_that_joins_is_found_at_the_next_list() -> None:
    async with looking_up(QUICK, a_node("node-2", ("InternalIP", "192.0.2.11"))) as looked:
        before = looked.nodes.version
        assert "192.0.2.11" in looked.nodes
        await looked.until(before)
        looked.server.put(a_node("node-3", ("InternalIP", "192.0.2.12")))
        before = looked.nodes.version
        assert "192.0.2.12" not in looked.nodes
        await looked.until(before)
        assert "192.0.2.12" in looked.nodes


async def test_answers_grow_old() -> None:
    timing = LookupTiming(spread=0.0, give_up_after=5.0, shortest_pause=0.02, longest_pause=0.02, valid_for=0.05)
    async with looking_up(timing, a_node("node-2", ("InternalIP", "192.0.2.11"))) as looked:
        before = looked.nodes.version
        assert "192.0.2.11" in looked.nodes
        await looked.until(before)
        looked.server.delete("Node", "", "node-2")
        before = looked.nodes.version
        await looked.until(before)
        assert "192.0.2.11" in looked.nodes, "until it is known better; and that asks"
        await looked.until(looked.nodes.version)
        assert "192.0.2.11" not in looked.nodes


@pytest.mark.parametrize("status", [403, 500])
async def test_where_nodes_cannot_be_listed_endpoints_are_used_and_it_is_said_once(status: int) -> None:
    async with looking_up(QUICK, a_node("node-2", ("InternalIP", "192.0.2.11"))) as looked:
        looked.server.refuse(NODES, status)
        with capture_logs() as logs:
            before = looked.nodes.version
            assert "192.0.2.11" in looked.nodes
            await looked.until(before)
            assert "192.0.2.11" not in looked.nodes
            async with asyncio.timeout(10):
                while looked.lists < 3:
                    await asyncio.sleep(0.01)
        (warning,) = (entry for entry in logs if entry["log_level"] == "warning")
        if status == 403:
            assert 'resources: ["nodes"], verbs: ["list", "watch"]' in warning["reason"]
        looked.server.accept()
        await looked.until(looked.nodes.version)
        assert "192.0.2.11" in looked.nodes, "it is still being asked"


async def test_a_server_that_does_not_answer_is_not_waited_for_longer_than_patience() -> None:
    timing = LookupTiming(spread=0.0, give_up_after=0.1, shortest_pause=600.0, longest_pause=600.0, valid_for=600.0)
    async with looking_up(timing, a_node("node-2", ("InternalIP", "192.0.2.11"))) as looked:
        await looked.server.stop()
        port = int(looked.server.url.rpartition(":")[2])
        with socket.create_server(("127.0.0.1", port)):
            before = looked.nodes.version
            assert "10.244.1.5" in looked.nodes
            await looked.until(before)
            assert "10.244.1.5" not in looked.nodes


async def test_the_first_lists_of_all_nodes_are_spread() -> None:
    timing = LookupTiming(spread=600.0, give_up_after=0.2, shortest_pause=600.0, longest_pause=600.0, valid_for=600.0)
    async with looking_up(timing, a_node("node-2", ("InternalIP", "192.0.2.11"))) as looked:
        before = looked.nodes.version
        assert "192.0.2.11" in looked.nodes
        await looked.until(before)
        assert looked.lists == 0
