"""The lab: the demo's network with hosts that serve, and a node that runs userproxy."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.lab.apiserver import HostedApiServer
from tests.lab.apiserver.objects import ApiObjects
from tests.lab.manifests import Manifests
from tests.lab.proxy import RunningProxy, installed_command
from userproxy.demo.hosts import Completed, Host
from userproxy.demo.network import Network, Node, Pod
from userproxy.demo.programs import Program, wait_for_port
from userproxy.demo.rules import portal_rules
from userproxy.demo.waiting import eventually


class LabPod(Pod):
    """A pod with servers in it, which end with the lab. Closing a server that was returned kills it at once."""

    def __init__(self, name: str, stack: ExitStack) -> None:
        self._stack = stack
        super().__init__(name)

    def serve_http(self, port: int = 8080) -> Program:
        """A server that ``fetch`` understands: it answers with this pod's name and the client it sees."""
        return self.serve([sys.executable, "-m", "userproxy.demo.pods", "--name", self.name, "--port", str(port)], port)

    def serve_python(self, source: str, port: int = 8080) -> Program:
        """A Python program that listens on `port`, given as its text."""
        return self.serve([sys.executable, "-c", source], port)

    def serve(self, argv: Sequence[str], port: int) -> Program:
        """Any program; returns once it listens on the TCP port."""
        program = self._stack.enter_context(Program(self, argv))
        wait_for_port(self, port)
        return program


class LabNode(Node):
    """A node with the installed userproxy. ``proxies`` are all that were started on it, ended ones too."""

    def __init__(self, name: str, manifests: Manifests, stack: ExitStack) -> None:
        self.proxies: list[RunningProxy] = []
        self._manifests = manifests
        self._stack = stack
        super().__init__(name)

    def start_userproxy(
        self, *flags: str, most_files: int | None = None, env: Mapping[str, str] | None = None
    ) -> RunningProxy:
        """``userproxy run`` with the lab's source and iptables portals; `flags` come last, so they win."""
        always = (*self._manifests.flags, "--portals", "iptables")
        proxy = RunningProxy(self, *always, *flags, most_files=most_files, env=env)
        self.proxies.append(self._stack.enter_context(proxy))
        return proxy

    def userproxy(self, *arguments: str, check: bool = True) -> Completed:
        """Run another command of userproxy, such as ``cleanup``, to its end."""
        return self.run([installed_command(), *arguments], check=check)

    def wait_for_rules(self, text: str, seconds: float = 5.0) -> list[str]:
        """All portal rules, once one of them contains `text`: ``default/web``, or an address."""

        def rules() -> list[str]:
            found = portal_rules(self)
            return found if any(text in rule for rule in found) else []

        return eventually(rules, seconds, f"{self.name}: a portal rule with {text}")

    def wait_for_no_rules(self, text: str = "KUBE-", seconds: float = 5.0) -> None:
        """Return once no portal rule contains `text`."""
        what = f"{self.name}: no portal rule with {text}"
        eventually(lambda: not any(text in rule for rule in portal_rules(self)), seconds, what)


class Lab:
    """One node with three pods to serve (``pods``) and one to ask (``client``), and a host outside.

    Everything ends with `stack`, whatever the test has left running. `directory` is for manifests; with `api`
    the same builders write to an API server instead.
    """

    def __init__(self, directory: Path, stack: ExitStack, *, api: bool = False) -> None:
        self._stack = stack
        self.network = stack.enter_context(Network())
        self.manifests = self._api_objects(directory) if api else Manifests(directory)
        self.node = self.add_node("node-1")
        self.pods = [self.add_pod(f"web-{number}") for number in (1, 2, 3)]
        self.client = self.add_pod("client")
        self.outside = self.network.add_outside(Host("outside"))

    def _api_objects(self, directory: Path) -> ApiObjects:
        """Objects of an API server, which has a host of its own on the LAN."""
        host = self.network.add_outside(Host("control-plane"))
        directory.mkdir(parents=True, exist_ok=True)
        return ApiObjects(directory, self._stack.enter_context(HostedApiServer(host, directory)))

    @property
    def api(self) -> HostedApiServer:
        """The API server, where the lab has one."""
        assert isinstance(self.manifests, ApiObjects), "this lab has no API server"
        return self.manifests.server

    def add_node(self, name: str) -> LabNode:
        return self.network.add_node(LabNode(name, self.manifests, self._stack))

    def add_pod(self, name: str, node: Node | None = None) -> LabPod:
        """A pod on the first node, or on another."""
        return self.network.add_pod(node or self.node, LabPod(name, self._stack))

    def add_outside(self, name: str) -> Host:
        return self.network.add_outside(Host(name))

    def serve_http(self) -> dict[str, Program]:
        """An HTTP server in each of ``pods``, by pod name. Starts them at once, so it is quicker than one by one."""
        argv = [sys.executable, "-m", "userproxy.demo.pods", "--name"]
        servers = {pod.name: self._stack.enter_context(Program(pod, [*argv, pod.name])) for pod in self.pods}
        for pod in self.pods:
            wait_for_port(pod, 8080)
        return servers

    def logs(self) -> dict[str, str]:
        """What every userproxy of the lab has written, by node name and number."""
        nodes = [node for node in self.network.nodes if isinstance(node, LabNode)]
        return {
            f"userproxy {number} on {node.name}": "\n".join(proxy.lines[-300:])
            for node in nodes
            for number, proxy in enumerate(node.proxies, 1)
        }
