"""The steps of the demo. Each checks what it claims: a claim that fails ends the demo."""

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.resources import files

import yaml

from userproxy.addresses import host_and_port
from userproxy.demo import pods
from userproxy.demo.hosts import Address, Host
from userproxy.demo.network import Network, Node, Pod
from userproxy.demo.play.rules import portal_rules
from userproxy.demo.play.screen import Screen
from userproxy.demo.programs import Program, wait_for_port
from userproxy.demo.traffic import Tally, ask, ask_many, fetch, fetch_many
from userproxy.demo.waiting import eventually
from userproxy.errors import UserproxyError

_CLUSTER_IP = ("10.96.0.10", 80)
_NODE_PORT = 30080
_DNS = ("10.96.0.53", 53)
_DNS6 = ("fd00:10:96::53", 53)
_POD_PORT = 8080
_REQUESTS = 300
_MANIFESTS = "/run/manifests"  # the node's own /run: the machine's file system is not touched
_DEADLINE = 30.0


class ClaimError(UserproxyError):
    """Something did not go as the demo says; the text says what."""


def run_demo(screen: Screen) -> int:
    """Play all steps on `screen`. Returns the exit code: 1 after a claim that did not hold."""
    start = time.monotonic()
    demo = None
    try:
        with ExitStack() as stack:
            demo = Demo(screen, stack)
            demo.play()
    except (UserproxyError, OSError) as error:
        screen.bad(str(error), demo.last_words() if demo else [])
        return 1
    screen.end(f"That took {time.monotonic() - start:.1f} s. Hosts, rules and files are gone; nothing is left behind.")
    return 0


class Demo:
    """The hosts of the demo, and its steps. All that it starts is closed with `stack`.

    Making one builds the hosts. Raises KernelToolError where the kernel cannot.
    """

    def __init__(self, screen: Screen, stack: ExitStack) -> None:
        self._log: Sequence[str] = ()
        self._screen = screen
        self._stack = stack
        self._network = stack.enter_context(Network())
        self._node = self._network.add_node(Node("node-1"))
        self._pods = [self._network.add_pod(self._node, Pod(f"web-{number}")) for number in (1, 2, 3)]
        self._client = self._network.add_pod(self._node, Pod("client"))
        self._outside = self._network.add_outside(Host("outside"))
        self._servers: dict[str, Program] = {}
        self._manifests = self._node.path(_MANIFESTS)

    def play(self) -> None:
        """Raises ClaimError, or another UserproxyError or OSError, where something fails."""
        self._show_hosts()
        proxy = self._start_userproxy()
        self._show_rules()
        self._spread()
        self._kill_one()
        self._scale_in()
        self._add_dns()
        self._stop(proxy)

    def last_words(self) -> list[str]:
        """The end of what userproxy has written, for a person who looks for the reason of a failure."""
        return ["The end of userproxy's log:", *self._log[-20:]] if self._log else []

    def _show_hosts(self) -> None:
        self._screen.step(
            "A small cluster out of network namespaces",
            "On one node: three Pods that serve HTTP, and a client Pod. Outside the cluster: one more host.",
        )
        self._screen.hosts([self._node, *self._pods, self._client, self._outside])
        for pod in self._pods:
            self._serve(pod)

    def _start_userproxy(self) -> Program:
        self._screen.step(
            "userproxy starts on the node",
            "It reads a Service and its EndpointSlice from a directory, and watches them for changes.",
        )
        self._manifests.mkdir()
        for name in ("service.yaml", "endpointslice.yaml"):
            self._write(name, _manifest(name))
        flags = ["run", "--manifests", _MANIFESTS, "--portals", "iptables"]
        self._screen.command(" ".join(["userproxy", *flags]))
        start = time.monotonic()
        proxy = self._stack.enter_context(Program(self._node, [sys.executable, "-m", "userproxy", *flags]))
        self._log = proxy.lines
        self._wait_until_served(proxy)
        self._screen.good(f"The Service answers {time.monotonic() - start:.1f} s after the start.")
        return proxy

    def _wait_until_served(self, proxy: Program) -> None:
        def served() -> bool:
            if not proxy.running:
                raise ClaimError(f"userproxy ended at its start with exit code {proxy.wait()}.")
            return bool(fetch(self._client, _CLUSTER_IP, timeout=1.0).pod)

        for pod in self._pods:
            wait_for_port(pod, _POD_PORT, _DEADLINE)
        eventually(served, _DEADLINE, "an answer through the cluster IP")

    def _show_rules(self) -> None:
        self._screen.step(
            "The portal rules",
            "Traffic to the cluster IP or the node port is led to a port that userproxy listens on.",
        )
        rules = portal_rules(self._node)
        if not any("default/web" in rule for rule in rules):
            raise ClaimError("The Service answers, but no rule names it.")
        self._screen.rules(rules)

    def _spread(self) -> None:
        self._screen.step("Requests spread over the Pods", "Every new connection goes to the next ready Pod.")
        self._send(self._client, _CLUSTER_IP, "from the client Pod through the cluster IP", self._pods)
        self._send(self._outside, self._node_port, "from outside through the node port", self._pods)

    def _kill_one(self) -> None:
        victim = self._pods[1]
        self._screen.step(
            f"{victim.name}'s server is killed",
            "The EndpointSlice still names it. userproxy is refused there and tries the next Pod.",
        )
        self._servers.pop(victim.name).close()
        alive = [pod for pod in self._pods if pod is not victim]
        self._send(self._client, _CLUSTER_IP, "from the client Pod through the cluster IP", alive)
        self._pods = alive

    def _scale_in(self) -> None:
        newcomer = self._network.add_pod(self._node, Pod("web-4"))
        self._screen.step(
            f"{newcomer.name} joins",
            "The EndpointSlice is edited on disk: the new Pod in place of the dead one.",
        )
        self._pods.append(newcomer)
        self._serve(newcomer)
        self._name_endpoints(self._pods)
        start = time.monotonic()
        eventually(lambda: self._answers_from(newcomer), _DEADLINE, f"an answer from {newcomer.name}")
        self._screen.good(f"{newcomer.name} answers {(time.monotonic() - start) * 1000:.0f} ms after the edit.")
        self._send(self._outside, self._node_port, "from outside through the node port", self._pods)

    def _add_dns(self) -> None:
        both = bool(self._client.address6)
        self._screen.step(
            f"A Service with a UDP port{' and addresses of both families' if both else ''} joins",
            "A client's datagrams stay with one Pod, a new client goes to the next. Clients here have a port each.",
        )
        self._write("dns.yaml", _manifest("dns.yaml"))
        for address in [_DNS, _DNS6] if both else [_DNS]:
            eventually(lambda: ask(self._client, address, 0.5), _DEADLINE, "an answer over UDP")  # noqa: B023 -- used at once
            tally = ask_many(self._client, address, _REQUESTS)
            self._show(f"{_REQUESTS} datagrams from the client Pod through the cluster IP", address, tally, self._pods)

    def _stop(self, proxy: Program) -> None:
        self._screen.step("userproxy is stopped", "SIGTERM: it drains its connections and removes its rules.")
        code = proxy.terminate(_DEADLINE)
        if code:
            raise ClaimError(f"userproxy ended with exit code {code}.")
        if left := portal_rules(self._node):
            raise ClaimError(f"userproxy has left {len(left)} lines of rules behind, such as {left[-1]}")
        self._screen.good("It ended with exit code 0, and iptables-save shows no rule and no chain of it.")

    def _send(self, host: Host, address: Address, how: str, pods: Sequence[Pod]) -> None:
        """Send requests, and show what became of them."""
        self._show(f"{_REQUESTS} requests {how}", address, fetch_many(host, address, _REQUESTS), pods)

    def _show(self, what: str, address: Address, tally: Tally, pods: Sequence[Pod]) -> None:
        """Show who answered, and claim that everything was answered, by exactly these `pods`."""
        host, port = address
        self._screen.bars(f"{what} ({host_and_port(host, port)}):", tally.pods)
        if tally.failures:
            raise ClaimError(f"{len(tally.failures)} of {_REQUESTS} failed: {tally.failures[0]}")
        if strangers := set(tally.pods) ^ {pod.name for pod in pods}:
            raise ClaimError(f"Not every Pod that should has answered, or others have: {', '.join(strangers)}.")
        middle = tally.percentile(50) * 1000
        self._screen.good(f"None failed; half of them took less than {middle:.1f} ms.")

    def _answers_from(self, pod: Pod) -> bool:
        return fetch(self._outside, self._node_port).pod == pod.name

    @property
    def _node_port(self) -> Address:
        return (self._node.address, _NODE_PORT)

    def _serve(self, pod: Pod) -> None:
        self._servers[pod.name] = self._stack.enter_context(Program(pod, pods.command(pod.name, _POD_PORT)))

    def _name_endpoints(self, pods: Sequence[Pod]) -> None:
        name = "endpointslice.yaml"
        document = yaml.safe_load((self._manifests / name).read_text())
        document["endpoints"] = [
            {"addresses": [pod.address], "conditions": {"ready": True}, "nodeName": self._node.name} for pod in pods
        ]
        self._write(name, yaml.safe_dump(document, sort_keys=False))

    def _write(self, name: str, text: str) -> None:
        """Write a manifest in one step, so that nobody reads half of it."""
        draft = self._manifests / f".{name}"
        draft.write_text(text)
        draft.rename(self._manifests / name)


def _manifest(name: str) -> str:
    return files("userproxy.demo").joinpath("manifests", name).read_text()
