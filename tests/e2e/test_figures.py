"""After connections of known sizes the commands, the metrics and the Pods' own counters say exactly the same."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.counting import COUNTING_SERVER, counted, exchange, exchange_all
from tests.lab.manifests import Port
from tests.lab.proxy import CONTROL, installed_command
from tests.telemetry.exposition import value
from userproxy.demo.hosts import Address, Host
from userproxy.demo.programs import Program
from userproxy.demo.traffic import http
from userproxy.demo.waiting import eventually

pytestmark = pytest.mark.e2e

WEB, FIRST = "10.96.0.10", "10.96.0.11"
SIZES = [100 + number for number in range(1_000)]
RING = 256
"""Decisions of a service port that are remembered."""


def start(lab: Lab, ports: int, *flags: str) -> list[Address]:
    """A Service of so many ports, whose third Pod refuses: what clients dial. And one to find out who listens."""
    for pod in lab.pods[:2]:
        pod.serve_python(COUNTING_SERVER)
    of_web = [Port(80 + number, f"p{number}") for number in range(ports)]
    lab.manifests.service("web", ports=of_web, cluster_ip=WEB)
    lab.manifests.slice("web", lab.pods, ports=of_web)
    lab.manifests.service("first", cluster_ip=FIRST)
    lab.manifests.slice("first", lab.pods[2:], ports=9)
    lab.node.start_userproxy(*QUICK, *flags)
    lab.settle()
    return [(WEB, port.port) for port in of_web]


def asked(lab: Lab, *arguments: str) -> str:
    """What a command prints that succeeds."""
    done = lab.node.userproxy(*arguments)
    assert done.stderr == ""
    return done.stdout


def items(lab: Lab, kind: str) -> list[dict[str, Any]]:
    """What ``get`` says of the Service."""
    found: list[dict[str, Any]] = json.loads(asked(lab, "get", kind, "default/web", "-o", "json"))["items"]
    return found


def summed(found: Iterable[dict[str, Any]], *fields: str) -> tuple[int, ...]:
    each = list(found)
    return tuple(sum(item[field] for item in each) for field in fields)


@contextmanager
def observing(lab: Lab) -> Iterator[Program]:
    """``observe -f``, once it tells of what happens."""
    with Program(lab.node, [installed_command(), "observe", "-f", "-o", "json"]) as program:

        def is_told() -> bool:
            with pytest.raises(ConnectionError):
                exchange(lab.client, (FIRST, 80), 1)
            return bool(program.lines)

        eventually(is_told, 30, "observe -f tells of a client whom nobody serves")
        yield program


def of_web(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The decisions of the Service, in the order in which they are told."""
    return [each for each in map(json.loads, lines) if each["service"] == "default/web"]


def check_decisions(lab: Lab, decided: list[dict[str, Any]], retried: int) -> None:
    """They are those of all connections: each was served once with its bytes, by the Pods that say so themselves."""
    served = [each for each in decided if each["verdict"] == "served"]
    assert Counter(each["verdict"] for each in decided) == {"served": len(SIZES), "retried": retried}
    assert sorted(each["bytes_up"] for each in served) == SIZES
    assert all(each["bytes_down"] == 3 * each["bytes_up"] for each in served)
    refusing = f"{lab.pods[2].address}:8080"
    tried = {(each["client"], each["portal"]): each["tried"] for each in served}
    for each in (each for each in decided if each["verdict"] == "retried"):
        assert (
            each["tried"]
            == tried[each["client"], each["portal"]]
            == [{"endpoint": refusing, "reason": "Connection refused"}]
        )
    for pod in lab.pods[:2]:
        mine = [each for each in served if each["endpoint"] == f"{pod.address}:8080"]
        assert (len(mine), *summed(mine, "bytes_up", "bytes_down")) == totals(lab.client, pod)


def totals(client: Host, pod: Host) -> tuple[int, int, int]:
    """Connections, bytes up and bytes down, as the Pod counted them."""
    said = counted(client, pod)
    return said.connections, said.up, said.down


def check_figures(lab: Lab) -> int:
    """``get services``, ``get endpoints`` and metrics agree with the Pods; how many clients were retried."""
    fields = "total", "bytes_up", "bytes_down"
    everything = (len(SIZES), sum(SIZES), 3 * sum(SIZES))
    services, endpoints = items(lab, "services"), items(lab, "endpoints")
    text = http(lab.node, ("127.0.0.1", 10249), "/metrics").decode()

    def figure(name: str, **labels: str) -> int:
        ports = {each["port"] for each in services}
        return int(sum(value(text, f"userproxy_{name}", service="web", port=port, **labels) for port in ports))

    bytes_moved = [figure("bytes_total", direction=direction) for direction in ("up", "down")]
    assert (figure("connections_opened_total"), *bytes_moved) == everything
    assert summed(services, *fields) == summed(endpoints, *fields) == everything
    assert summed(services, "active", "failed") == (0, 0)
    for pod in lab.pods[:2]:
        mine = [each for each in endpoints if each["endpoint"] == f"{pod.address}:8080"]
        assert summed(mine, *fields) == totals(lab.client, pod)
        assert summed(mine, "failed") == (0,)
    (retried,) = summed(services, "retried")
    refusing = [each for each in endpoints if each["endpoint"] == f"{lab.pods[2].address}:8080"]
    assert summed(refusing, "failed", *fields) == (retried, 0, 0, 0)
    assert figure("connections_retried_total") == figure("dial_failures_total", reason="refused") == retried >= 1
    return retried


def test_beyond_the_ring_who_follows_has_seen_all_and_the_newest_are_remembered(lab: Lab) -> None:
    """Each process that serves remembers as many, of its own clients."""
    addresses = start(lab, 1)
    with observing(lab) as program:
        assert exchange_all(lab.client, addresses, SIZES) == [3 * size for size in SIZES]
        eventually(lambda: summed(items(lab, "services"), "active") == (0,), 30, "all have ended")
        retried = check_figures(lab)
        total = len(SIZES) + retried
        eventually(lambda: len(of_web(list(program.lines))) >= total, 30, "all decisions are told of")
        followed = of_web(list(program.lines))
        check_decisions(lab, followed, retried)
    remembered = of_web(asked(lab, "observe", "default/web", "--last", "2000", "-o", "json").splitlines())
    assert of_web(asked(lab, "observe", "default/web", "--last", "3", "-o", "json").splitlines()) == remembered[-3:]
    if int(CONTROL) > 1:  # each tells what it remembers, and both are put in order then
        assert all(each in followed for each in remembered)
        assert RING < len(remembered) <= int(CONTROL) * RING
        assert [each["time"] for each in remembered] == sorted(each["time"] for each in remembered)
    else:
        assert remembered == followed[-RING:]


def test_of_several_service_ports_all_is_remembered(lab: Lab) -> None:
    addresses = start(lab, ports=8)
    assert exchange_all(lab.client, addresses, SIZES) == [3 * size for size in SIZES]
    eventually(lambda: summed(items(lab, "services"), "active") == (0,), 30, "all have ended")
    retried = check_figures(lab)
    remembered = of_web(asked(lab, "observe", "default/web", "--last", "2000", "-o", "json").splitlines())
    check_decisions(lab, remembered, retried)
    for service in items(lab, "services"):
        mine = [each for each in remembered if each["port"] == service["port"] and each["verdict"] == "served"]
        fields = "bytes_up", "bytes_down"
        assert (len(mine), *summed(mine, *fields)) == (service["total"], *(service[field] for field in fields))
        assert service["total"] == len(SIZES) / 8
