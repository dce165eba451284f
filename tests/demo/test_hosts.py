"""Hosts against the real kernel: apart from each other, and gone when they should be."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.demo.programs_started import programs_started
from userproxy.demo.hosts import CommandFailedError, Host
from userproxy.demo.tools import ToolMissingError
from userproxy.demo.waiting import eventually

pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture
def host(root: None) -> Iterator[Host]:
    with Host("one") as host:
        yield host


def test_a_host_has_only_lo_and_lo_is_up(host: Host) -> None:
    links = host.run(["ip", "-oneline", "link"]).stdout.splitlines()
    assert len(links) == 1
    assert "lo: <LOOPBACK,UP" in links[0]


def test_a_host_takes_one_program(monkeypatch: pytest.MonkeyPatch) -> None:
    with programs_started(monkeypatch) as started, Host("quick"):
        assert started == ["ip"]


def test_commands_run_in_the_callers_directory_with_text_and_environment(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert host.run(["sh", "-c", "pwd; cat"], text="hello").stdout == f"{tmp_path}\nhello"
    with host.popen(["sh", "-c", "echo $COLOUR"], stdout=subprocess.PIPE, env={"COLOUR": "green"}) as child:
        assert child.communicate()[0] == "green\n"


def test_a_command_that_fails_says_where_and_why(host: Host) -> None:
    with pytest.raises(CommandFailedError, match=r"^one: ip link set nothing up: Cannot find device"):
        host.run(["ip", "link", "set", "nothing", "up"])
    with pytest.raises(CommandFailedError, match=r"^one: false: exit code 1$"):
        host.run(["false"])
    assert host.run(["false"], check=False).returncode == 1
    with pytest.raises(ToolMissingError, match=r"^no-such-program is missing$"):
        host.run(["no-such-program"])


def test_a_command_that_does_not_end_is_killed(host: Host) -> None:
    with pytest.raises(CommandFailedError, match=r"sleep 600: no end within 0\.05 s"):
        host.run(["sleep", "600"], timeout=0.05)


def test_ip_batch_stops_at_the_line_that_fails(host: Host) -> None:
    with pytest.raises(CommandFailedError, match="Cannot find device"):
        host.ip_batch(["link add one type bridge", "link set two up", "link add three type bridge"])
    links = host.run(["ip", "-oneline", "link"]).stdout
    assert "one" in links
    assert "three" not in links


def test_run_is_the_hosts_own(host: Host) -> None:
    with Host("two") as other:
        host.path("/run/note").write_text("for one only")
        assert host.run(["cat", "/run/note"]).stdout == "for one only"
        assert not other.path("/run/note").exists()
    assert not Path("/run/note").exists()


def test_a_sysctl_holds_in_its_host_alone(host: Host) -> None:
    with Host("two") as other:
        show = ["cat", "/proc/sys/net/ipv4/ip_forward"]
        host.sysctl("net.ipv4.ip_forward", 1)
        other.sysctl("net.ipv4.ip_forward", 0)
        assert (host.run(show).stdout, other.run(show).stdout) == ("1\n", "0\n")


def test_a_socket_stays_where_it_was_made(host: Host) -> None:
    with Host("two") as other, host.listen() as server, host.connect(server.getsockname()) as client:
        accepted, address = server.accept()
        with accepted:
            assert address == client.getsockname()
            client.sendall(b"hello")
            assert accepted.recv(16) == b"hello"
        with pytest.raises(ConnectionRefusedError):
            other.connect(server.getsockname())


@pytest.mark.parametrize("loopback", ["127.0.0.1", "::1"])
def test_sockets_of_either_family(host: Host, loopback: str) -> None:
    everywhere = "::" if ":" in loopback else "0.0.0.0"
    other = "0.0.0.0" if ":" in loopback else "::"
    source = (loopback, 40000)
    with (
        host.listen(8080, everywhere) as server,
        host.listen(8080, other),
        host.connect((loopback, 8080), source=source) as client,
    ):
        accepted, address = server.accept()
        accepted.close()
        assert address[:2] == client.getsockname()[:2] == source
    with host.udp_socket(source=(loopback, 5353)) as server, host.udp_socket((loopback, 5353)) as client:
        client.send(b"hello")
        assert server.recvfrom(16)[1][:2] == client.getsockname()[:2]


def test_a_connected_udp_socket_hears_that_nobody_is_there(host: Host) -> None:
    with host.udp_socket(("127.0.0.1", 5353), timeout=2.0) as client:
        client.send(b"hello")
        with pytest.raises(ConnectionRefusedError):
            client.recv(16)


def test_ipv6_can_be_switched_off(host: Host) -> None:
    assert host.has_ipv6 == Path("/proc/net/if_inet6").exists()
    if host.has_ipv6:
        host.sysctl("net.ipv6.conf.all.disable_ipv6", 1)
        assert not host.has_ipv6


@pytest.mark.parametrize(("brief", "signal_at_our_end"), [(False, signal.SIGKILL), (True, 0)])
def test_the_kernel_ends_commands_with_us_but_for_brief_ones(host: Host, brief: bool, signal_at_our_end: int) -> None:
    asked = "import ctypes; n = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(n)); print(n.value)"
    assert int(host.run([sys.executable, "-I", "-S", "-c", asked], brief=brief).stdout) == signal_at_our_end


@pytest.mark.parametrize("brief", [False, True])
def test_closing_kills_what_runs_and_may_be_repeated(brief: bool) -> None:
    host = Host("short-lived")
    child = host.popen(["sleep", "600"], brief=brief)
    host.close()
    host.close()
    assert child.returncode == -signal.SIGKILL


def test_kill_9_leaves_neither_process_nor_namespace() -> None:
    source = (
        "from userproxy.demo.hosts import Host; import signal, os\n"
        "host = Host('orphan'); child = host.popen(['sleep', '600'])\n"
        "print(child.pid, host.inside(os.readlink, '/proc/thread-self/ns/net'), flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child, namespace = parent.stdout.readline().split()
        assert namespace in _network_namespaces()
        parent.kill()
    eventually(lambda: not _running(child), 30, f"the end of process {child}")
    eventually(lambda: namespace not in _network_namespaces(), 30, f"the end of {namespace}")


def _running(pid: str) -> bool:
    """Whether a process lives; one that has ended stays in /proc until whoever inherited it asks for its exit code."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _network_namespaces() -> set[str]:
    """Every network namespace that a thread of this machine is in."""
    found = set()
    for task in Path("/proc").glob("[0-9]*/task/*/ns/net"):
        try:
            found.add(os.readlink(task))
        except OSError:
            continue  # it has ended since
    return found
