"""Which addresses are Nodes': what is known, what is asked for, and when an answer may be another one."""

from userproxy.cluster.nodes import NodeAddresses
from userproxy.cluster.objects.keys import ObjectKey
from userproxy.cluster.store import Store
from userproxy.model import Node

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
