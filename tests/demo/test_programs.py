"""Programs in a host, and waiting for what they do."""

import signal
import sys
import time
from collections.abc import Iterator

import pytest

from userproxy.demo.hosts import Host
from userproxy.demo.programs import Program, ProgramEndedError, wait_for_port
from userproxy.demo.waiting import DeadlineError, eventually


@pytest.fixture
def host(root: None) -> Iterator[Host]:
    with Host("one") as host:
        yield host


def test_lines_of_both_streams_are_collected_as_they_come(host: Host) -> None:
    with Program(host, ["sh", "-c", "echo one; echo two >&2; read never || exit 3"]) as program:
        assert program.wait_line("tw") == "two"
        assert program.wait() == 3
        assert program.lines == ["one", "two"]


def test_wait_line_finds_a_line_that_is_yet_to_come(host: Host) -> None:
    with Program(host, ["sh", "-c", "sleep 0.05; echo later; exec sleep 600"]) as program:
        assert program.wait_line("later") == "later"
        assert program.running


def test_wait_line_tells_silence_from_an_end(host: Host) -> None:
    with Program(host, ["sh", "-c", "echo alive; exec sleep 600"]) as program:
        program.wait_line("alive")
        with pytest.raises(DeadlineError, match=r"(?s)no 'ready' in 0\.05 s: .*alive"):
            program.wait_line("ready", 0.05)
    broken = Program(host, ["sh", "-c", "echo broken; exit 1"])
    with broken, pytest.raises(ProgramEndedError, match=r"(?s)ended without 'ready'.*broken"):
        broken.wait_line("ready")


def test_terminate_and_kill_give_the_exit_code(host: Host) -> None:
    with Program(host, ["sh", "-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.01; done"]) as program:
        program.wait_line("up")
        assert program.terminate() == 7
    with Program(host, ["sleep", "600"]) as program:
        program.kill()
        assert program.wait() == -signal.SIGKILL


def test_terminate_says_so_when_the_program_goes_on(host: Host) -> None:
    with Program(host, ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.01; done"]) as program:
        program.wait_line("up")
        with pytest.raises(DeadlineError, match=r"still runs after 0\.05 s"):
            program.terminate(0.05)


def test_wait_for_port_does_not_connect(host: Host) -> None:
    with host.listen(8080) as server:
        wait_for_port(host, 8080)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    with pytest.raises(DeadlineError, match=r"^one: a listener on port 8080 did not come"):
        wait_for_port(host, 8080, 0.02)


def test_a_program_is_waited_for_until_it_listens_or_ends(host: Host) -> None:
    with Program(host, [sys.executable, "-m", "http.server", "8080"]) as server:
        server.wait_port(8080)
        with pytest.raises(DeadlineError, match=r"^one: .*: a listener on port 8081 did not come"):
            server.wait_port(8081, 0.02)
    broken = Program(host, ["sh", "-c", "echo no such option; exit 2"])
    with broken, pytest.raises(ProgramEndedError, match=r"(?s)ended before it listened on port 8080: .*no such option"):
        broken.wait_port(8080)


def test_eventually_returns_the_first_true_value() -> None:
    values = iter(["", "", "here"])
    assert eventually(lambda: next(values)) == "here"


def test_eventually_chains_what_stood_in_the_way_last() -> None:
    def refuse() -> bool:
        raise ConnectionRefusedError("nobody there")

    start = time.monotonic()
    with pytest.raises(DeadlineError, match=r"an answer did not come true within 0\.05 s: nobody there") as caught:
        eventually(refuse, 0.05, "an answer")
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    assert 0.05 <= time.monotonic() - start < 1.0


def test_eventually_lets_a_programmers_mistake_through() -> None:
    with pytest.raises(ZeroDivisionError):
        eventually(lambda: 1 // 0)
