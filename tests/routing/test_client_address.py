"""Whose address a backend sees, by where client and endpoint are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userproxy.model import ClientAddress, Endpoint, TrafficClass
from userproxy.routing.client_address import keeps_client_address

AUTO, KEEP, NODE = ClientAddress
INTERNAL, EXTERNAL, ON_NODE = TrafficClass

POD, OTHER_POD, OUTSIDE, HOST = "10.244.1.5", "10.244.2.5", "198.51.100.7", "192.168.50.1"
HERE, ELSEWHERE, ON_HOST = Endpoint("10.244.1.6", 80), Endpoint("10.244.2.6", 80), Endpoint(HOST, 80)

NODE_ASKED_FOR = "the node's address is asked for"
KEEP_ASKED_FOR = "the client's address is asked for, wherever that is possible"
CLIENT_HERE = "the client is a Pod of this node, so answers to it come by this node"
ENDPOINT_HERE = "the endpoint is on this node, so its answers leave by this node"
BOTH_ELSEWHERE = "neither client nor endpoint is on this node, so answers would not come by it"
CLIENT_IS_NODE = "the client is the node itself"
HAIRPIN = "the endpoint is the client itself, and would drop what comes from its own address"
ENDPOINT_IS_NODE = "the endpoint has the node's own address, so its answers never leave the node"


def decided(
    wanted: ClientAddress, client: str, endpoint: Endpoint, traffic: TrafficClass = INTERNAL
) -> tuple[bool, str]:
    return keeps_client_address(
        wanted,
        client,
        endpoint,
        client_is_pod_here=client.startswith("10.244.1."),
        client_is_node=client == HOST,
        endpoint_is_here=endpoint in (HERE, ON_HOST) or endpoint.ip == POD,
        traffic=traffic,
        endpoint_is_node=endpoint == ON_HOST,
    )


@pytest.mark.parametrize(
    ("client", "endpoint", "traffic", "auto", "keep"),
    [
        (POD, HERE, INTERNAL, (True, CLIENT_HERE), (True, KEEP_ASKED_FOR)),
        (POD, ELSEWHERE, INTERNAL, (True, CLIENT_HERE), (True, KEEP_ASKED_FOR)),
        (POD, ELSEWHERE, ON_NODE, (True, CLIENT_HERE), (True, KEEP_ASKED_FOR)),
        (POD, Endpoint(POD, 80), INTERNAL, (False, HAIRPIN), (False, HAIRPIN)),
        (POD, ON_HOST, INTERNAL, (False, ENDPOINT_IS_NODE), (False, ENDPOINT_IS_NODE)),
        (OTHER_POD, HERE, INTERNAL, (True, ENDPOINT_HERE), (True, KEEP_ASKED_FOR)),
        (OTHER_POD, ELSEWHERE, INTERNAL, (False, BOTH_ELSEWHERE), (True, KEEP_ASKED_FOR)),
        (OUTSIDE, HERE, EXTERNAL, (True, ENDPOINT_HERE), (True, KEEP_ASKED_FOR)),
        (OUTSIDE, HERE, INTERNAL, (True, ENDPOINT_HERE), (True, KEEP_ASKED_FOR)),
        (OUTSIDE, ELSEWHERE, EXTERNAL, (False, BOTH_ELSEWHERE), (True, KEEP_ASKED_FOR)),
        (OUTSIDE, ON_HOST, EXTERNAL, (False, ENDPOINT_IS_NODE), (False, ENDPOINT_IS_NODE)),
        (OUTSIDE, ELSEWHERE, ON_NODE, (True, CLIENT_HERE), (True, KEEP_ASKED_FOR)),
        (HOST, HERE, INTERNAL, (False, CLIENT_IS_NODE), (False, CLIENT_IS_NODE)),
        (HOST, ELSEWHERE, ON_NODE, (False, CLIENT_IS_NODE), (False, CLIENT_IS_NODE)),
        (HOST, ON_HOST, INTERNAL, (False, CLIENT_IS_NODE), (False, CLIENT_IS_NODE)),
    ],
    ids=str,
)
def test_the_table(
    client: str, endpoint: Endpoint, traffic: TrafficClass, auto: tuple[bool, str], keep: tuple[bool, str]
) -> None:
    assert decided(AUTO, client, endpoint, traffic) == auto
    assert decided(KEEP, client, endpoint, traffic) == keep
    assert decided(NODE, client, endpoint, traffic) == (False, NODE_ASKED_FOR)


ADDRESSES = st.sampled_from([POD, OTHER_POD, OUTSIDE, HOST, "fd00:244:1::5"])


@given(
    ADDRESSES,
    ADDRESSES,
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from(TrafficClass),
)
def test_keep_does_whatever_auto_does_and_some_are_never_kept(
    client: str, ip: str, pod: bool, node: bool, here: bool, on_host: bool, traffic: TrafficClass
) -> None:
    kept = {
        wanted: keeps_client_address(
            wanted,
            client,
            Endpoint(ip, 80),
            client_is_pod_here=pod,
            client_is_node=node,
            endpoint_is_here=here,
            traffic=traffic,
            endpoint_is_node=on_host,
        )[0]
        for wanted in ClientAddress
    }
    assert kept[NODE] <= kept[AUTO] <= kept[KEEP]
    assert kept[KEEP] is not (node or client == ip or on_host)
