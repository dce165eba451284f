"""``kubectl userproxy``: kubectl's plug-in, which runs userproxy's commands in the Pod of a node."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import click

from userproxy import __version__
from userproxy.cli.errors import exit_on_usage_error
from userproxy.errors import UsageError, UserproxyError

_LABEL: Final = "app.kubernetes.io/name in (userproxy, userproxy-one-service)"
"""Of the Pods that examples/kubernetes makes."""

_COMMAND: Final = "userproxy"


class KubectlError(UserproxyError):
    """kubectl is missing, has failed, or shows no Pod that can be asked."""


class Pod(NamedTuple):
    """A Pod of userproxy that runs."""

    namespace: str
    name: str
    node: str
    container: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@click.command(
    context_settings={"allow_interspersed_args": False, "help_option_names": ["-h", "--help"]}, no_args_is_help=True
)
@click.argument("command", metavar="COMMAND [ARGS]...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("-N", "--node", metavar="NODE", help="The node whose userproxy is meant. Needed where there are several.")
@click.option("--pod", metavar="NS/NAME", help="The very Pod, where a node has several.")
@click.option("-c", "--container", metavar="NAME", help="The container of it.  [default: the one called userproxy]")
@click.option(
    "-l", "--selector", metavar="LABELS", default=_LABEL, show_default=True, help="Which Pods are userproxy's."
)
@click.option("--context", metavar="NAME", help="kubectl's.")
@click.option("--kubeconfig", metavar="FILE", help="kubectl's.")
@click.version_option(__version__, prog_name="kubectl-userproxy")
@exit_on_usage_error
def main(
    command: tuple[str, ...],
    node: str | None,
    pod: str | None,
    container: str | None,
    selector: str,
    context: str | None,
    kubeconfig: str | None,
) -> None:
    """Run a command of userproxy in its Pod on a node.

    \b
    kubectl userproxy -N node-1 get connections
    kubectl userproxy -N node-1 observe default/web -f
    kubectl userproxy -N node-1 dashboard

    Options of this plug-in come before the command, those of the command after it.
    """
    flags = [f"--{name}={value}" for name, value in (("context", context), ("kubeconfig", kubeconfig)) if value]
    found = pods(_kubectl_json([*flags, "get", "pods", "--all-namespaces", f"--selector={selector}", "--output=json"]))
    chosen = choose(found, node, pod)
    where = ["--namespace", chosen.namespace, chosen.name, "--container", container or chosen.container]
    if command[0] == "dashboard":  # its page is to be here, and its browser
        inside = [_kubectl(), *flags, "exec", "--stdin", *where, "--", _COMMAND]
        _show(command[1:], inside)
    terminal = ["--stdin", "--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else []
    sys.stdout.flush()
    os.execvp(_kubectl(), ["kubectl", *flags, "exec", *terminal, *where, "--", _COMMAND, *command])  # noqa: S606


def _show(arguments: Sequence[str], inside: Sequence[str]) -> None:
    from userproxy.cli.dashboard import dashboard

    dashboard.main(list(arguments), "kubectl userproxy dashboard", obj=inside)


def pods(listed: dict[str, Any]) -> list[Pod]:
    """Those of a list of Pods that run and are not being deleted."""
    found = []
    for item in listed.get("items", ()):
        metadata, spec = item["metadata"], item["spec"]
        if item.get("status", {}).get("phase") != "Running" or metadata.get("deletionTimestamp"):
            continue
        containers = [each["name"] for each in spec["containers"]]
        container = _COMMAND if _COMMAND in containers else containers[0]
        found.append(Pod(metadata["namespace"], metadata["name"], spec.get("nodeName", ""), container))
    return sorted(found)


def choose(found: Sequence[Pod], node: str | None, name: str | None) -> Pod:
    """The Pod that is meant. Raises UsageError where that is not said, KubectlError where there is none."""
    wanted = [pod for pod in found if node in (None, pod.node) and name in (None, str(pod))]
    match wanted:
        case [pod]:
            return pod
        case []:
            what = f"Pod {name}" if name else f"Pod of userproxy on node {node}" if node else "Pod of userproxy"
            there = f"there are {_names(found)}" if found else "give --selector if its labels are others"
            raise KubectlError(f"no {what} is running: {there}")
    if node is None and name is None:
        nodes = ", ".join(sorted({pod.node for pod in wanted}))
        raise UsageError(f"say which node is meant: -N with one of {nodes}")
    raise UsageError(f"say which Pod is meant: --pod with one of {', '.join(map(str, wanted))}")


def _names(found: Sequence[Pod]) -> str:
    return ", ".join(f"{pod} on {pod.node}" for pod in found)


def _kubectl() -> str:
    path = shutil.which("kubectl")
    if path is None:
        raise KubectlError("kubectl is not on the PATH: this plug-in asks the cluster by it")
    return path


def _kubectl_json(arguments: Sequence[str]) -> dict[str, Any]:
    """What kubectl prints. Raises KubectlError with kubectl's own words where it fails."""
    done = subprocess.run([_kubectl(), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise KubectlError(f"kubectl could not list the Pods: {lines[-1]}")
    try:
        listed = json.loads(done.stdout)
    except ValueError as error:
        raise KubectlError("kubectl listed the Pods, and it was no JSON") from error
    return listed if isinstance(listed, dict) else {}
