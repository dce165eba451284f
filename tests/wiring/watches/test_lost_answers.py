"""Where answers to clients' addresses do not come back is told once, in few words."""

from collections.abc import Iterable
from typing import cast

from userproxy.model import Endpoint, IPFamily, ProblemKind, Protocol
from userproxy.model.data_plane import DataPlane
from userproxy.model.reports import LostAnswers
from userproxy.wiring.watches.lost_answers import LostAnswersWatch, problems_of


def lost(interface: str = "cni0", node: str = "b", client: str = "10.244.1.5", since: float = 1.0) -> LostAnswers:
    return LostAnswers(Protocol.TCP, IPFamily.IPV4, interface, node, since, client, Endpoint("10.244.2.5", 80))


def texts(found: Iterable[LostAnswers]) -> list[str]:
    return sorted(problem.text for problem in problems_of(found))


def test_a_pair_is_a_problem_of_the_node() -> None:
    (problem,) = problems_of([lost()])
    assert (problem.service, problem.kind) == (None, ProblemKind.CLIENT_ADDRESS_NOT_KEPT)
    assert "from node b to the addresses of clients on cni0 (TCP over IPv4) do not come back" in problem.text


def test_it_is_the_same_problem_whoever_has_found_it_out_and_when() -> None:
    assert problems_of([lost()]) == problems_of([lost(client="10.244.1.9", since=2.0), lost()])


def test_nodes_of_an_interface_are_one_problem_and_many_are_few() -> None:
    assert len(texts(lost(node=node) for node in "bc")) == 1
    (text,) = texts(lost(node=f"n{number:02}") for number in range(1000))
    assert "node n00, node n01" in text
    assert "and others" in text
    found = texts(lost(interface=f"cali{number:03}") for number in range(100))
    assert len(found) == 11
    assert sum("other interfaces" in text for text in found) == 1


def test_what_is_not_known_is_said_in_words() -> None:
    (text,) = texts([lost(interface="", node="")])
    assert "from endpoints whose node is not known to the addresses of clients behind gateways" in text


async def test_others_are_told_when_it_changes_and_only_then() -> None:
    class Plane:
        found: tuple[LostAnswers, ...] = ()

        async def lost_answers(self) -> tuple[LostAnswers, ...]:
            return self.found

    plane, told = Plane(), []
    watch = LostAnswersWatch(cast(DataPlane, plane), lambda: told.append(len(watch.problems)))
    for found in ((), (lost(),), (lost(since=3.0),), (lost(), lost(interface="")), ()):
        plane.found = found
        await watch.look()
    assert told == [1, 2, 0]
