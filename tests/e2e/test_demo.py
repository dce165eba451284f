"""``userproxy demo`` as a newcomer runs it: in a pipe, as root and as an ordinary user."""

import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import userproxy
from tests.lab.processes import processes_marked
from tests.lab.proxy import installed_command
from userproxy.demo.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("root")]

AS_NOBODY = """
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/python /mnt/packages /mnt/source
mount --bind "$1" /mnt/python
mount --bind "$2" /mnt/packages
mount --bind "$3" /mnt/source
cd /
export HOME=/ LD_LIBRARY_PATH=/mnt/python/lib PYTHONPATH=/mnt/source:/mnt/packages
exec setpriv --reuid nobody --regid nogroup --clear-groups env /mnt/python/bin/$4 -m userproxy demo
"""
"""Python and what is installed usually lie where nobody may not look, so they are mounted where nobody may.

env runs what follows: setpriv itself still has root's rights to find a program.
"""

CLAIMS = [
    "300 requests from the client Pod through the cluster IP (10.96.0.10:80):",
    "300 requests from outside through the node port (192.0.2.10:30080):",
    "-A KUBE-PORTALS-CONTAINER -d 10.96.0.10/32",
    "-A KUBE-NODEPORT-CONTAINER -p tcp",
    "web-2's server is killed",
    "web-4 answers ",
    "300 datagrams from the client Pod through the cluster IP (10.96.0.53:53):",
    "300 datagrams from the client Pod through the cluster IP ([fd00:10:96::53]:53):",
    "It ended with exit code 0, and iptables-save shows no rule and no chain of it.",
    "nothing is left behind.",
]


def test_as_root(tmp_path: Path) -> None:
    _assert_told(_run([installed_command(), "demo"], tmp_path), tmp_path)


def test_as_an_ordinary_user(tmp_path: Path) -> None:
    places = [sys.base_prefix, sysconfig.get_path("purelib"), str(Path(userproxy.__file__).parents[1])]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    done = _run(["unshare", "--mount", "sh", "-ec", AS_NOBODY, "sh", *places, version], tmp_path)
    _assert_told(done, tmp_path)


def test_a_claim_that_does_not_hold_ends_in_failure_and_the_log(tmp_path: Path) -> None:
    # An iptables that shows a rule of userproxy even after it has gone.
    false_witness = tmp_path / "bin" / "iptables-legacy-save"
    false_witness.parent.mkdir()
    false_witness.write_text("#!/bin/sh\necho '*nat'\necho '-A KUBE-PORTALS-HOST -j RETURN'\n")
    false_witness.chmod(0o755)
    path = f"{false_witness.parent}{os.pathsep}{os.environ['PATH']}"
    done = _run([installed_command(), "demo"], tmp_path, {"PATH": path})
    assert done.returncode == 1, done.stdout
    assert "userproxy has left 2 lines of rules behind, such as -A KUBE-PORTALS-HOST -j RETURN" in done.stdout
    assert "The end of userproxy's log:" in done.stdout
    assert "nothing is left behind" not in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_demo_that_is_stopped_half_way_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    before = _traces()
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([installed_command(), "demo"], stdout=subprocess.PIPE, text=True, env=environment) as demo:
        assert demo.stdout is not None
        assert any("userproxy run --manifests" in line for line in demo.stdout)
        demo.send_signal(number)
        demo.communicate(timeout=30)
    assert demo.returncode == (130 if number == signal.SIGINT else -number)
    _assert_nothing_left(before, tmp_path)


def _assert_told(done: subprocess.CompletedProcess[str], tmp_path: Path) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for claim in CLAIMS:
        assert claim in done.stdout
    assert done.stdout.count("None failed") == 6
    assert "\x1b" not in done.stdout  # no colours in a pipe
    assert list(tmp_path.iterdir()) == []


def _run(argv: list[str], tmp_path: Path, extra: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the demo to its end and see that it has left no process, mount, interface behind."""
    before = _traces()
    environment = {**os.environ, "TMPDIR": str(tmp_path), **(extra or {})}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, env=environment)
    _assert_nothing_left(before, tmp_path)
    return done


def _assert_nothing_left(before: tuple[str, ...], mark: Path) -> None:
    eventually(lambda: not processes_marked(mark), 30, "the end of the demo's processes")
    assert _traces() == before


def _traces() -> tuple[str, ...]:
    """What a careless demo would change on this machine."""
    links = sorted(os.listdir("/sys/class/net"))
    return (Path("/proc/self/mounts").read_text(), " ".join(links), Path("/proc/sys/net/ipv4/ip_forward").read_text())
