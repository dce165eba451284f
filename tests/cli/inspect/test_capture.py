"""``userproxy capture`` against an admin server."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import Result

from tests.admin.pcapng.reader import read, streams
from tests.admin.pcapng.test_recording import data, ended, opened
from tests.admin.planes import ONE, WEB, Served
from tests.cli.served import Running, running
from userproxy.demo.waiting import eventually
from userproxy.model import Endpoint
from userproxy.model.capture import CaptureEvent, CaptureRequest, Leg
from userproxy.model.reports import Query

EVENTS = (opened(), data(Leg.CLIENT, b"ask", up=True), data(Leg.BACKEND, b"ask", up=True), ended())


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Running]:
    def fill(api: Served) -> None:
        api.control.add(WEB, ONE)
        api.may_capture = True

    with running(tmp_path) as found:
        found.tell(fill)
        yield found


def telling(*events: CaptureEvent) -> Callable[[Served], None]:
    def tell(api: Served) -> None:
        for watch in api.data.captures:
            for event in events:
                watch.tell(event)

    return tell


def captured(proxy: Running, *arguments: str, events: tuple[CaptureEvent, ...] = EVENTS) -> Result:
    """What the command comes to that is told of these events."""
    with ThreadPoolExecutor(1) as threads:
        command = threads.submit(proxy.run, "capture", "default/web", *arguments)
        assert eventually(lambda: bool(proxy.api.data.captures), 20)
        proxy.tell(telling(*events))
        return command.result(30)


def test_a_file_has_both_legs_and_is_its_owners_alone(proxy: Running, tmp_path: Path) -> None:
    file = tmp_path / "web.pcapng"
    found = captured(proxy, "--pcap", str(file), "--count", "1")

    assert found.exit_code == 0, found.output
    sides = streams(read(file.read_bytes()).packets)
    assert sides[("10.0.0.1", 40_001), ("10.0.0.2", 80)].data == b"ask"
    assert sides[("10.0.0.3", 50_001), ("10.0.0.4", 8080)].data == b"ask"
    assert file.stat().st_mode & 0o777 == 0o600
    assert "Capturing to" in found.stderr


def test_standard_output_has_nothing_but_the_file(proxy: Running) -> None:
    found = captured(proxy, "--pcap", "-", "--count", "1")

    assert found.exit_code == 0
    assert len(read(found.stdout_bytes).packets) == 14


def test_a_hexdump(proxy: Running) -> None:
    found = captured(proxy, "--count", "1")

    assert found.exit_code == 0
    assert "10.0.0.1:40001 > 10.0.0.2:80 3 bytes" in found.stdout
    assert "  00000000  61 73 6b " in found.stdout
    assert found.stdout.count("|ask|") == 2


def test_what_is_asked_for(proxy: Running) -> None:
    asked = ("--client", "10.0.0.1", "--endpoint", "[fd00::1]:80", "--bytes", "0", "--for", "0s")
    assert proxy.run("capture", "web", "-n", "default", *asked).exit_code == 0

    query = Query(namespace="default", service="web", client="10.0.0.1", endpoint=Endpoint("fd00::1", 80))
    assert proxy.api.data.asked_for == [CaptureRequest(query, 0, None)]


@pytest.mark.parametrize("form", [("--hex",), ("--pcap", "-")])
def test_who_is_cut_off_is_told_so_and_fails(proxy: Running, form: tuple[str, ...]) -> None:
    proxy.tell(lambda api: setattr(api.data, "room", 1))
    found = captured(proxy, *form)

    assert found.exit_code == 1
    assert "this reader was too slow" in found.stderr
    assert "Traceback" not in found.output


def test_without_allow_capture_it_is_one_sentence_and_no_file(proxy: Running, tmp_path: Path) -> None:
    proxy.tell(lambda api: setattr(api, "may_capture", False))
    file = tmp_path / "web.pcapng"
    for form in (("--pcap", str(file)), ("--hex",)):
        found = proxy.run("capture", "default/web", *form)
        assert found.exit_code == 1
        assert found.stderr.startswith("Error: captures show what clients and Services say to each other")
        assert found.stderr.endswith("start it with --allow-capture\n")
        assert found.stderr.count("\n") == 1
    assert not file.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("default/web", "--pcap", "x", "--hex"), 2, "Error: --pcap and --hex are two forms: say which of them"),
        (("default/web", "--for", "soon"), 2, "Error: --for: 'soon' is not a duration such as 250ms, 2s or 1m30s"),
        (("default/web", "--for", "-1s"), 2, "Error: --for: -1s is less than nothing"),
        (("default/web", "--client", "me"), 2, "Error: --client: 'me' is not an IP address"),
        (("default/nothing",), 1, "Error: no Service default/nothing is served here"),
        (("default/web", "--pcap", "/nowhere/x"), 2, "Error: --pcap: /nowhere/x cannot be written: no such file"),
    ],
)
def test_bad_questions(proxy: Running, arguments: tuple[str, ...], code: int, sentence: str) -> None:
    found = proxy.run("capture", *arguments)

    assert (found.exit_code, found.stderr[: len(sentence)]) == (code, sentence)


def test_ctrl_c_leaves_a_whole_file(proxy: Running, tmp_path: Path) -> None:
    file = tmp_path / "web.pcapng"
    command = [sys.executable, "-m", "userproxy", "capture", "default/web", "--pcap", str(file)]
    with subprocess.Popen([*command, "--admin-socket", proxy.path], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "Capturing to" in process.stderr.readline()
        proxy.tell(telling(opened(), data(Leg.CLIENT, b"ask", up=True)))
        assert eventually(lambda: file.stat().st_size > 1000, 20)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""
    assert len(read(file.read_bytes()).packets) == 7


def test_a_program_that_is_piped_into_may_end_first(proxy: Running) -> None:
    command = f"{sys.executable} -m userproxy capture default/web --pcap - --admin-socket {proxy.path} | head -c 4 >&2"
    with subprocess.Popen(["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], stderr=subprocess.PIPE) as process:
        assert eventually(lambda: bool(proxy.api.data.captures), 20)
        proxy.tell(telling(*[data(Leg.CLIENT, b"x" * 60_000, up=True)] * 2))
        for number in range(1, 40):
            proxy.tell(telling(opened(number), data(Leg.CLIENT, b"x" * 60_000, up=True, connection=number)))
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
