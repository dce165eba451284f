"""A Deployment's Pods replaced one by one under steady traffic, with slices as its controllers write them."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.lab.cluster import Lab, LabPod
from tests.lab.manifests import Backend
from userproxy.demo import pods
from userproxy.demo.hosts import Address, Host
from userproxy.demo.programs import Program
from userproxy.demo.traffic import fetch
from userproxy.demo.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.parametrize("lab", ["manifests", "api"], indirect=True)]

FOUR, SIX = ("10.96.0.10", 80), ("fd00:10:96::10", 80)
CLIENTS = 4
PAUSE = 0.02
"""Seconds between two connections of one client: 200 a second for all at the most."""


class Traffic:
    """What became of all connections so far: the Pods' names in order, and the failures."""

    def __init__(self, host: Host, addresses: list[Address]) -> None:
        self.pods: list[str] = []
        self._each: list[list[str]] = [[] for _ in range(CLIENTS)]
        self.failures: list[str] = []
        self._host = host
        self._over = threading.Event()
        each = [addresses[number % len(addresses)] for number in range(CLIENTS)]
        self._threads = [threading.Thread(target=self._ask, args=pair) for pair in zip(each, self._each, strict=True)]

    @contextmanager
    def flowing(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join()

    def answered_by(self, pod: str) -> None:
        """Return once a Pod has answered from now on."""
        start = len(self.pods)
        eventually(lambda: pod in self.pods[start:], 30, f"{pod} answers")

    def left(self, pod: str, others: int = 10) -> None:
        """Return once each client has had so many answers from now on with none of this Pod's among the last of them.

        Then it is asked no more, and no client is still waiting for its answer.
        """
        starts = [len(answers) for answers in self._each]

        def gone() -> bool:
            news = [answers[start:][-others:] for answers, start in zip(self._each, starts, strict=True)]
            return all(len(recent) == others and pod not in recent for recent in news)

        eventually(gone, 30, f"{pod} is asked no more")

    def _ask(self, address: Address, answers: list[str]) -> None:
        while not self._over.wait(PAUSE):
            try:
                answers.append(fetch(self._host, address).pod)
                self.pods.append(answers[-1])
            except OSError as error:
                self.failures.append(f"{address}: {error!r}")


def start(pod: LabPod, stack: ExitStack) -> Program:
    """A Pod's server, which can be stopped before the lab is."""
    program = stack.enter_context(Program(pod, pods.command(pod.name)))
    program.wait_port(8080)
    return program


def test_no_connection_fails_while_every_pod_is_replaced(lab: Lab) -> None:
    servers = lab.serve_http()
    lab.manifests.service("web", cluster_ip=[FOUR[0], SIX[0]])
    backends = {pod.name: Backend(pod) for pod in lab.pods}

    def write() -> None:
        lab.manifests.slices("web", backends.values())

    write()
    lab.node.start_userproxy()
    for address in (FOUR, SIX):
        eventually(lambda: fetch(lab.client, address).pod, 30, "the Service answers")  # noqa: B023 -- used at once
    traffic = Traffic(lab.client, [FOUR, SIX])
    with ExitStack() as stack, traffic.flowing():
        for number, old in enumerate(lab.pods, 1):
            new = lab.add_pod(f"new-{number}")
            backends[new.name] = Backend(new, ready=False, serving=False)  # its readiness probe fails as yet
            write()
            servers[new.name] = start(new, stack)
            backends[new.name] = Backend(new)
            write()
            traffic.answered_by(new.name)
            backends[old.name] = Backend(old, ready=False, serving=True, terminating=True)
            write()
            traffic.left(old.name)
            servers[old.name].terminate()
            backends[old.name] = Backend(old, ready=False, serving=False, terminating=True)
            write()
            del backends[old.name]
            write()
        # The last of them go together, as with a Recreate strategy: they serve while they terminate.
        for name, backend in backends.items():
            backends[name] = Backend(backend.address, ready=False, serving=True, terminating=True)
        write()
        start_of_end = len(traffic.pods)
        eventually(lambda: len(traffic.pods) > start_of_end + 60, 30, "terminating Pods serve")
    assert traffic.failures == []
    assert set(traffic.pods[-60:]) == {"new-1", "new-2", "new-3"}
    assert set(traffic.pods) == {*servers}
