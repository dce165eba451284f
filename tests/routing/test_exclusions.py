"""Why endpoints are not in a list, against the rules that make the lists."""

import pytest
from hypothesis import given

from tests.routing.notation import a_slice, locality, parse
from tests.routing.strategies import localities, slices
from userproxy.model import Endpoint, EndpointSlice, Protocol
from userproxy.routing.exclusions import exclusions
from userproxy.routing.selection import Locality, candidates, select

ELSEWHERE = "policy Local: it is on node another"


def reasons(text: str, zone: str | None = None, *, local: bool = False) -> dict[str, str]:
    """The reasons of a row's endpoints, by how they are written there."""
    written = parse(text)
    found = candidates([a_slice(*written.values())], "http", Protocol.TCP)
    chosen = select(found, internal_local=local, locality=locality(zone=zone))
    listed = (chosen.local if local else chosen.cluster) or ()
    excluded = exclusions(found, listed, locality(zone=zone), local=local)
    by_address = {endpoint.ip: reason for endpoint, reason in excluded.items()}
    return {word: by_address[source.address] for word, source in written.items() if source.address in by_address}


@pytest.mark.parametrize(
    ("text", "zone", "local", "expected"),
    [
        ("Rl Rr", None, False, {}),
        ("Rl N S", None, False, {"N": "not ready", "S": "terminating, while others are ready"}),
        ("Rl Rr S", None, True, {"Rr": ELSEWHERE, "S": ELSEWHERE}),
        ("Sl Sr", None, True, {"Sr": ELSEWHERE}),
        ("Rl Sl", None, True, {"Sl": "terminating, while others are ready"}),
        ("R(zA) R(zB)", "A", False, {"R(zB)": "hint: for zone B"}),
        ("R(n1) R(n2)", None, False, {"R(n2)": "hint: for node n2"}),
        ("R(zA) R(zB,zC)", "A", False, {"R(zB,zC)": "hint: for zones B, C"}),
    ],
)
def test_the_reason_is_the_rule_that_keeps_it_out(
    text: str, zone: str | None, local: bool, expected: dict[str, str]
) -> None:
    assert reasons(text, zone, local=local) == expected


@given(slices(), localities)
def test_every_candidate_is_listed_or_has_a_reason_and_none_that_could_serve_is_said_not_to_be_ready(
    made: list[EndpointSlice], here: Locality
) -> None:
    found = candidates(made, "http", Protocol.TCP)
    chosen = select(found, internal_local=False, external_local=True, externally_accessible=True, locality=here)
    for local, listed in ((False, chosen.cluster or ()), (True, chosen.local or ())):
        excluded = exclusions(found, listed, here, local=local)
        assert excluded.keys() | set(listed) == found.keys()
        assert not excluded.keys() & set(listed)
        assert all(excluded.values())
        for endpoint, reason in excluded.items():
            assert reason != "not taken over yet", (endpoint, listed)
            assert (reason == "not ready") <= (not found[endpoint].ready)


def test_an_endpoint_that_is_new_has_not_been_taken_over() -> None:
    found = candidates([a_slice(*parse("Rl").values())], "http", Protocol.TCP)
    assert exclusions(found, (), locality(), local=False) == {Endpoint("10.244.0.1", 8080): "not taken over yet"}
