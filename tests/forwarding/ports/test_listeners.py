"""Ports for listeners: where they come from, and what they keep off."""

from pathlib import Path
from random import Random

import pytest
from structlog.testing import capture_logs

from userproxy.demo.hosts import Host
from userproxy.forwarding.ports import ranges
from userproxy.forwarding.ports.listeners import NODE_PORTS, ListenerPorts
from userproxy.forwarding.ports.ranges import PortRange, ephemeral_ports, reserved_ports


def all_ports(ports: ListenerPorts) -> list[int]:
    return sorted(set(ports.candidates(Random(1))))


def test_a_configured_range_is_obeyed_but_for_what_others_need() -> None:
    with capture_logs() as logs:
        ports = ListenerPorts(PortRange(29_998, 32_770), (NODE_PORTS, PortRange(10_256, 10_256)))
    assert all_ports(ports) == [29_998, 29_999, 32_768, 32_769, 32_770]
    assert [(entry["log_level"], entry["kept_off"]) for entry in logs] == [("info", "30000-32767")]


def test_a_configured_range_that_others_need_altogether_is_taken_and_that_is_said() -> None:
    with capture_logs() as logs:
        ports = ListenerPorts(PortRange(30_000, 30_003), (NODE_PORTS,))
    assert all_ports(ports) == [30_000, 30_001, 30_002, 30_003]
    assert [(entry["log_level"], entry["needed"]) for entry in logs] == [("warning", "30000-32767")]


@pytest.mark.parametrize(
    ("configured", "left"),
    [(PortRange(29_999, 30_000), [29_999]), (PortRange(32_767, 32_768), [32_768])],
)
def test_an_overlap_of_one_port_is_one(configured: PortRange, left: list[int]) -> None:
    with capture_logs() as logs:
        ports = ListenerPorts(configured, (NODE_PORTS,))
    assert all_ports(ports) == left
    assert [entry["kept_off"] for entry in logs] == ["30000-32767"]


def test_whose_range_it_is_that_leaves_no_port_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ip_local_port_range").write_text("30000\t30001\n")
    monkeypatch.setattr(ranges, "_NET", tmp_path)
    for configured, name in (
        (PortRange(), "net.ipv4.ip_local_port_range"),
        (PortRange(30_000, 30_001), "--proxy-port-range"),
    ):
        with capture_logs() as logs:
            assert all_ports(ListenerPorts(configured, (NODE_PORTS,))) == [30_000, 30_001]
        assert [entry[name] for entry in logs] == ["30000-30001"]


def test_what_the_kernel_reserves_may_be_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ip_local_reserved_ports").write_text("40001\n")
    monkeypatch.setattr(ranges, "_NET", tmp_path)
    assert all_ports(ListenerPorts(PortRange(40_000, 40_002))) == [40_000, 40_001, 40_002]


def test_nothing_is_said_where_nothing_overlaps() -> None:
    with capture_logs() as logs:
        ports = ListenerPorts(PortRange(40_000, 40_003), (NODE_PORTS, PortRange(39_999, 39_999)))
        assert len(all_ports(ports)) == 4
    assert logs == []


def test_node_ports_outside_of_the_default_range_are_kept_off_once_known() -> None:
    ports = ListenerPorts(PortRange(40_000, 40_003), (NODE_PORTS,))
    assert ports.allows(40_001)
    ports.keep_off(40_001)
    assert all_ports(ports) == [40_000, 40_002, 40_003]
    assert not ports.allows(40_001)


def test_ports_that_listeners_have_are_tried_last_until_they_are_released() -> None:
    ports, tried = ListenerPorts(PortRange(40_000, 40_099)), []

    def bind(_host: str, port: int) -> int:
        tried.append(port)
        return port

    preferred: list[int | None] = [40_007, *[None] * 98]
    bound = [ports.bind(bind, "127.0.0.1", each, Random(number)) for number, each in enumerate(preferred)]
    assert tried == bound
    assert len(set(bound)) == 99, "none was tried that another has"
    assert next(ports.candidates(Random(1))) not in bound
    assert all_ports(ports) == list(range(40_000, 40_100)), "another protocol or family may have them all the same"
    ports.release(40_007)
    assert {port for port, _ in zip(ports.candidates(Random(1)), range(2), strict=False)} >= {40_007}


@pytest.mark.usefixtures("root")
def test_without_a_configured_range_the_ports_are_those_of_the_kernel() -> None:
    with Host("node") as node:
        node.sysctl("net.ipv4.ip_local_port_range", "29998 32775")
        node.sysctl("net.ipv4.ip_local_reserved_ports", "32769,32771-32773")
        ports = node.inside(ListenerPorts, PortRange(), (NODE_PORTS,))
    assert all_ports(ports) == [29_998, 29_999, 32_768, 32_770, 32_774, 32_775]


def test_without_proc_the_range_is_the_usual_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ranges, "_NET", tmp_path)
    assert (ephemeral_ports(), reserved_ports()) == (PortRange(32_768, 60_999), ())
