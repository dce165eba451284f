"""kubectl's plug-in, beside a kubectl that answers as told and runs what is to run in a Pod here."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.served import running
from userproxy.cli.kubectl import KubectlError, Pod, choose, pods
from userproxy.errors import UsageError

PLUGIN = [sys.executable, "-c", "from userproxy.cli.kubectl import main; main()"]
KUBECTL = """#!{python}
import json, os, sys
with open({log!r}, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if "exec" in sys.argv:
    command = sys.argv[sys.argv.index("--") + 1:]
    os.execv({python!r}, [{python!r}, "-m", *command])
if {failure!r}:
    sys.exit({failure!r})
print({answer!r})
"""


def item(name: str, node: str = "node-1", **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "kube-system", "name": name, **metadata},
        "spec": {"nodeName": node, "containers": [{"name": "sidecar"}, {"name": "userproxy"}]},
        "status": {"phase": "Running"},
    }


class Cluster:
    """A directory with a kubectl in it. `calls` are the arguments of each of its calls."""

    def __init__(self, directory: Path) -> None:
        self._bin, self._log = directory / "bin", directory / "log"
        self._bin.mkdir()
        self._log.touch()

    def answers(self, *items: dict[str, Any], text: str = "", failure: str = "") -> None:
        answer = text or json.dumps({"items": items})
        program = self._bin / "kubectl"
        source = KUBECTL.format(python=sys.executable, log=str(self._log), answer=answer, failure=failure)
        program.write_text(source)
        program.chmod(0o755)

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*PLUGIN, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": str(self._bin)}

    @property
    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def test_the_command_runs_in_the_pod_of_the_node_with_its_own_options(cluster: Cluster) -> None:
    cluster.answers(item("userproxy-a"), item("userproxy-b", "node-2"))
    done = cluster.run("--context", "prod", "-N", "node-2", "get", "connections", "-n", "default", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: userproxy get ")
    assert cluster.calls[0][:4] == ["--context=prod", "get", "pods", "--all-namespaces"]
    where = ["--namespace", "kube-system", "userproxy-b", "--container", "userproxy"]
    command = ["userproxy", "get", "connections", "-n", "default", "--help"]
    assert cluster.calls[1] == ["--context=prod", "exec", *where, "--", *command]


def test_the_exit_code_and_the_errors_are_those_of_the_command(cluster: Cluster) -> None:
    cluster.answers(item("userproxy-a"))
    done = cluster.run("get", "connections", "--admin-socket", "/nowhere/at/all")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: there is no socket /nowhere/at/all")
    assert cluster.run("get", "nonsense").returncode == 2


def test_the_dashboard_is_here_and_asks_in_the_pod(cluster: Cluster, tmp_path: Path) -> None:
    cluster.answers(item("userproxy-a"))
    with running(tmp_path) as server:
        argv = [*PLUGIN, "--context", "prod", "dashboard", "--no-open", "--admin-socket", server.path]
        with subprocess.Popen(argv, env=cluster.environment, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline().startswith("http://127.0.0.1:")
            child.send_signal(signal.SIGTERM)
            assert child.wait(60) == 0
    where = ["--namespace", "kube-system", "userproxy-a", "--container", "userproxy"]
    command = ["userproxy", "relay", "--admin-socket", server.path]
    assert cluster.calls[1] == ["--context=prod", "exec", "--stdin", *where, "--", *command]


@pytest.mark.parametrize(
    ("arguments", "sentence", "code"),
    [
        (("get", "services"), "say which node is meant: -N with one of node-1, node-2", 2),
        (
            ("-N", "node-3", "get"),
            "no Pod of userproxy on node node-3 is running: there are kube-system/userproxy-a",
            1,
        ),
        (("--pod", "default/x", "get"), "no Pod default/x is running", 1),
    ],
)
def test_a_pod_that_is_not_clear_is_one_sentence(
    cluster: Cluster, arguments: tuple[str, ...], sentence: str, code: int
) -> None:
    cluster.answers(item("userproxy-a"), item("userproxy-b", "node-2"))
    done = cluster.run(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(f"Error: {sentence}")
    assert len(done.stderr.splitlines()) == 1


def test_a_kubectl_that_fails_says_why(cluster: Cluster) -> None:
    cluster.answers(failure="The connection to the server was refused")
    assert cluster.run("status").stderr == (
        "Error: kubectl could not list the Pods: The connection to the server was refused\n"
    )


def test_a_kubectl_that_says_something_else(cluster: Cluster) -> None:
    cluster.answers(text="What?")
    assert cluster.run("status").stderr == "Error: kubectl listed the Pods, and it was no JSON\n"


def test_without_kubectl_it_says_so(cluster: Cluster) -> None:
    done = cluster.run("status")
    assert (done.returncode, done.stderr) == (
        1,
        "Error: kubectl is not on the PATH: this plug-in asks the cluster by it\n",
    )


def test_pods_that_end_or_do_not_run_do_not_count() -> None:
    pending = item("c") | {"status": {"phase": "Pending"}}
    listed = {"items": [item("b"), item("a", deletionTimestamp="2026-11-21T22:00:00Z"), pending]}
    assert pods(listed) == [Pod("kube-system", "b", "node-1", "userproxy")]


def test_several_on_one_node_are_told_apart_by_name() -> None:
    found = [Pod("kube-system", name, "node-1", "userproxy") for name in "ab"]
    with pytest.raises(UsageError, match="say which Pod is meant: --pod with one of kube-system/a, kube-system/b"):
        choose(found, "node-1", None)
    assert choose(found, None, "kube-system/b") == found[1]
    with pytest.raises(KubectlError, match="no Pod of userproxy is running: give --selector"):
        choose([], None, None)
