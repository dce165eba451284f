"""The control-plane benchmark: its server answers as an API server would, and its report says what was measured."""

import json
import os
import socket
import threading
import time
from http.client import HTTPConnection
from typing import Any

import pytest

from examples.benchmarks.control_plane import Figures, cluster, to_text
from examples.benchmarks.control_server import ControlServer, serving
from examples.benchmarks.pauses import Step
from examples.benchmarks.pulse import Pulse
from userproxy.cluster.objects.documents import decode


def get(server: ControlServer, path: str) -> dict[str, Any]:
    connection = HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    connection.request("GET", path)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    assert isinstance(answer, dict)
    return answer


def test_a_list_comes_in_pages_that_hold_everything_once() -> None:
    names, path = [], "/api/v1/services?limit=500"
    with serving(cluster(1_200)) as server:
        following = "0"
        while following:
            page = get(server, f"{path}&continue={following}")
            names += [item["metadata"]["name"] for item in page["items"]]
            following = page["metadata"].get("continue", "")
    assert sorted(names) == sorted(f"service-{number}" for number in range(1_200))


def test_a_streamed_list_holds_everything_and_says_where_it_ends() -> None:
    path = "/apis/discovery.k8s.io/v1/endpointslices?watch=true&sendInitialEvents=true"
    with serving(cluster(1_200)) as server:
        connection = HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
        connection.request("GET", path)
        *added, end = [json.loads(line) for line in connection.getresponse().read().splitlines()]
        connection.close()
        assert server.watches("endpointslices") == 0
    assert {event["type"] for event in added} == {"ADDED"}
    assert len({event["object"]["metadata"]["name"] for event in added}) == 1_200
    assert end["type"] == "BOOKMARK"
    assert end["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


@pytest.mark.parametrize("elsewhere", [True, False])
def test_only_a_server_elsewhere_leaves_the_processor_to_all_others(elsewhere: bool) -> None:
    with serving(cluster(3), elsewhere=elsewhere) as server:
        connection = HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
        connection.request("GET", "/apis/discovery.k8s.io/v1/endpointslices?watch=true")
        connection.getresponse()
        threads = {thread.native_id for thread in threading.enumerate() if thread.native_id is not None}
        policies = [os.sched_getscheduler(thread) for thread in threads]
        connection.close()
    assert policies.count(os.SCHED_IDLE) == elsewhere


def test_a_watch_tells_what_is_modified() -> None:
    with serving(cluster(3)) as server:
        connection = HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
        connection.request("GET", "/apis/discovery.k8s.io/v1/endpointslices?watch=true")
        answer = connection.getresponse()
        server.modify("endpointslices", {"metadata": {"name": "a"}, "endpoints": []})
        event = json.loads(answer.readline())
        connection.close()
    assert (event["type"], event["object"]["kind"], event["object"]["metadata"]["name"]) == (
        "MODIFIED",
        "EndpointSlice",
        "a",
    )


def test_a_watch_tells_what_comes_and_goes_and_that_it_has_expired() -> None:
    with serving(cluster(3)) as server:
        connection = HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
        connection.request("GET", "/api/v1/services?watch=true")
        answer = connection.getresponse()
        server.add("services", {"metadata": {"name": "a"}})
        server.remove("services", {"metadata": {"name": "a"}})
        server.expire("services")
        events = [json.loads(line) for line in answer.read().splitlines()]
        assert server.watches("services") == 1
        connection.close()
    assert [event["type"] for event in events] == ["ADDED", "DELETED", "ERROR"]
    assert events[2]["object"]["code"] == 410


def test_the_clusters_objects_are_good_ones() -> None:
    objects = cluster(2)
    for plural, head in (
        ("services", {"kind": "Service", "apiVersion": "v1"}),
        ("endpointslices", {"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1"}),
    ):
        for item in objects[plural]:
            decoded = decode({**head, **item}, "here")
            assert decoded.objects
            assert not decoded.problems


def test_the_report_has_a_line_for_each_size() -> None:
    small, large = Figures(1_000, 0.5, 0.9, 60.0, 0.2, 1.0), Figures(10_000, 2.5, 3.0, 140.0, 0.3, 1.0)
    rows = [line.split() for line in to_text([small, large], 200, 10).splitlines()[2:]]
    assert rows[0] == ["1000", "0.50", "0.90", "60.0", "0.200", "1.0"]
    assert rows[1] == ["10000", "2.50", "3.00", "140.0", "0.300", "1.0"]


def test_what_changes_cost_stands_beside_the_longest_wait() -> None:
    steps = (Step("nothing", 0.0, 4.0), Step("a Service added", 12.5, 9.25))
    text = to_text([Figures(1_000, 0.5, 0.9, 60.0, 0.2, 1.0, steps)], 200, 10)
    assert [line.split() for line in text.splitlines()[4:]] == [
        ["1000", "Services,", "with", "rules", "CPU", "each,", "ms", "longest", "wait", "of", "a", "client,", "ms"],
        ["nothing", "0.0", "4.0"],
        ["a", "Service", "added", "12.5", "9.2"],
    ]


def test_a_client_tells_its_longest_wait_once() -> None:
    ours, theirs = socket.socketpair()
    held = threading.Event()

    def echo() -> None:
        for number in range(20):
            data = theirs.recv(100, socket.MSG_WAITALL)
            if number == 10:
                held.wait(10)
            theirs.sendall(data)
        theirs.close()

    pulse = Pulse(ours)
    threads = [threading.Thread(target=work) for work in (echo, pulse.run)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while pulse.longest() < 50_000_000 and time.monotonic() < deadline:
        time.sleep(0.01)
    held.set()
    for thread in threads:
        thread.join()
    assert pulse.longest() >= 50_000_000, "the wait had not ended when it was asked about"
    assert pulse.longest() == 0
    ours.close()
