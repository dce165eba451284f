import json
import os
from pathlib import Path

import pytest

from userproxy.model import IPFamily, Protocol, ServicePortName
from userproxy.portals.remembered_ports import RememberedPorts, default_path

WEB = ServicePortName("shop", "web", "http", Protocol.TCP)
DNS = ServicePortName("kube-system", "dns", "", Protocol.UDP)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "userproxy" / "ports.json"


def test_what_was_written_is_read_and_what_is_not_named_stays(path: Path) -> None:
    ports = RememberedPorts(path, "a", IPFamily.IPV4)
    assert ports.read() == {}
    ports.write({WEB: [41234], DNS: (5000, 5001)})
    ports.write({WEB: [41235]})
    assert RememberedPorts(path, "a", IPFamily.IPV4).read() == {WEB: (41235,), DNS: (5000, 5001)}


def test_sources_and_families_have_ports_of_their_own(path: Path) -> None:
    everybody = [RememberedPorts(path, source, family) for source in "ab" for family in IPFamily]
    for number, ports in enumerate(everybody):
        ports.write({WEB: [40_000 + number]})
    assert [ports.read() for ports in everybody] == [{WEB: (40_000 + number,)} for number in range(4)]


def test_a_file_grows_no_further_than_its_limits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("userproxy.portals.remembered_ports._MOST_PORTS", 3)
    monkeypatch.setattr("userproxy.portals.remembered_ports._MOST_SOURCES", 2)
    names = [ServicePortName("ns", f"s{number}", "", Protocol.TCP) for number in range(4)]
    for source in "abc":
        ports = RememberedPorts(path, source, IPFamily.IPV4)
        for number, name in enumerate(names):
            ports.write({name: [1 + number]})
    assert ports.read() == {names[number]: (1 + number,) for number in (1, 2, 3)}
    assert list(json.loads(path.read_text())) == ["IPv4 b", "IPv4 c"]


@pytest.mark.parametrize("content", ["", "[]", '{"IPv4 a": {"x": "y"}}', '{"IPv4 a": {"x": [65536]}}', "\0"])
def test_a_broken_file_costs_the_ports_alone(path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    path.parent.mkdir()
    path.write_text(content)
    ports = RememberedPorts(path, "a", IPFamily.IPV4)
    assert ports.read() == {}
    assert f"{path} is not what userproxy wrote" in capsys.readouterr().out
    ports.write({WEB: [1]})
    assert ports.read() == {WEB: (1,)}


def test_names_that_are_none_are_left_out(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"IPv4 a": {"shop/web:http/TCP": [1], "nonsense": [2], "shop/web:http/ICMP": [3]}}')
    assert RememberedPorts(path, "a", IPFamily.IPV4).read() == {WEB: (1,)}


def test_a_place_that_cannot_be_written_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    ports = RememberedPorts(tmp_path / "file" / "ports.json", "a", IPFamily.IPV4)
    ports.write({WEB: [1]})
    ports.write({WEB: [2]})
    assert capsys.readouterr().out.count("cannot be written") == 1


def test_the_file_is_where_state_of_programs_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_path() == tmp_path / "userproxy" / "local-ports.json"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_path() == Path("/home/somebody/.local/state/userproxy/local-ports.json")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_path() == Path("/run/userproxy/local-ports.json")
