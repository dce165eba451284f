"""Services change, userproxy is taken over from and its processes are killed, in any order: what is left is right."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import pytest

from tests.lab.cluster import QUICK, Cell, Lab, LabPod
from tests.lab.drivers import DRIVERS
from tests.lab.manifests import Port
from tests.lab.probes import KeptConnection
from tests.lab.proxy import RunningProxy
from userproxy.admin.client import AdminClient
from userproxy.demo.hosts import Address
from userproxy.demo.traffic import Answer, ask, ask_over, fetch
from userproxy.demo.waiting import eventually

pytestmark = pytest.mark.e2e

SEEDS: Final = int(os.environ.get("USERPROXY_RANDOM_SEEDS", "1"))
STEPS: Final = int(os.environ.get("USERPROXY_RANDOM_STEPS", "8"))
"""Each takes some four seconds."""

SERVICES: Final = 8
WORKERS: Final = ("0", "1", "2")
MOST_KEPT: Final = 12


class Wanted:
    """A Service as the manifests have it."""

    def __init__(self, number: int) -> None:
        self.name = f"s{number}"
        self.address = f"10.96.1.{number + 1}"
        self.number = number
        self.files: list[Any] = []
        self.pods: list[str] = []
        self.affinity: int | None = None
        self.has_udp = False
        self.node_port = 0
        self.generation = 0

    @property
    def exists(self) -> bool:
        return bool(self.files)

    @property
    def ports(self) -> list[Port]:
        return [Port(80, "http", "TCP", 8080), *([Port(53, "dns", "UDP", 8080)] if self.has_udp else [])]


class Kept:
    """A client's connection or flow, and the Pod that it has."""

    def __init__(self, service: Wanted, ask: Callable[[], Answer], close: Callable[[], None]) -> None:
        self.service = service
        self.ask = ask
        self.close = close
        self.pod = ask().pod


class Story:
    """What happens to one node, by chance, and what has to be so after each step."""

    def __init__(self, lab: Lab, seed: str) -> None:
        self.lab = lab
        self.chance = random.Random(seed)
        self.pods: dict[str, LabPod] = {pod.name: pod for pod in lab.pods}
        self.services = [Wanted(number) for number in range(SERVICES)]
        self.kept: list[Kept] = []
        self.totals: dict[tuple[str, int, str], int] = {}
        self.told: list[str] = []
        for service in self.services[: SERVICES - 2]:
            self.create(service)
        self.workers = self.chance.choice(WORKERS)
        self.proxy = self.start()
        self.admin = AdminClient(lab.node.path("/run/userproxy/admin.sock"))

    def start(self, *flags: str) -> RunningProxy:
        return self.lab.node.start_userproxy(*QUICK, "--workers", self.workers, *flags)

    def say(self, *words: object) -> None:
        self.told.append(" ".join(map(str, words)))

    # What changes.

    def create(self, service: Wanted) -> None:
        service.pods = self.some_pods()
        service.affinity = self.chance.choice([None, None, 600])
        service.has_udp = self.chance.random() < 0.5
        service.node_port = self.chance.choice([0, 0, 30100 + service.number])
        service.generation += 1
        self.write(service)

    def some_pods(self) -> list[str]:
        return self.chance.sample(sorted(self.pods), self.chance.randint(0, 3))

    def write(self, service: Wanted) -> None:
        manifests, ports = self.lab.manifests, service.ports
        service.files = [
            manifests.service(
                service.name,
                ports=ports,
                cluster_ip=service.address,
                affinity=service.affinity,
                node_port=service.node_port,
            ),
            manifests.slice(service.name, [self.pods[name] for name in service.pods], ports=ports),
        ]
        ports_told = [port.protocol for port in ports]
        self.say(service.name, service.pods, ports_told, service.affinity, service.node_port)

    def change(self) -> None:
        """Something of one Service."""
        service, what = self.chance.choice(self.services), self.chance.random()
        if not service.exists:
            self.create(service)
        elif what < 0.6:
            service.pods = self.some_pods()
            self.forget(lambda kept: kept.service is service and kept.pod not in service.pods)
            self.write(service)
        elif what < 0.75:
            service.affinity = None if service.affinity else 600
            self.write(service)
        elif what < 0.85:
            service.node_port = 0 if service.node_port else 30100 + service.number
            self.write(service)
        else:
            self.forget(lambda kept: kept.service is service)
            for file in service.files:
                self.lab.manifests.remove(file)
            service.files = []
            self.say(service.name, "is removed")

    def take_over(self) -> None:
        """Another userproxy takes the place of the one that runs; Services change meanwhile."""
        self.workers = self.chance.choice(WORKERS)
        self.say("take-over, --workers", self.workers)
        self.changes(2)
        successor = self.start("--takeover")
        self.changes(2)
        successor.wait_log("userproxy starts", 60)
        self.changes(3)
        successor.wait_log("Taken over", 60)
        self.changes(1)
        assert self.proxy.wait(30) == 0
        self.proxy = successor

    def kill(self) -> None:
        """A data process, or the control process."""
        data = [each["pid"] for each in self.admin.get("status")["processes"] if each["role"].startswith("data")]
        self.forget(lambda _: True)
        if data and self.chance.random() < 0.5:
            self.say("a data process is killed")
            os.kill(self.chance.choice(data), signal.SIGKILL)
        else:
            self.say("the control process is killed")
            self.totals.clear()  # another one may begin anew
            self.proxy.kill()
            self.proxy = self.start()

    def changes(self, most: int) -> None:
        for _ in range(self.chance.randint(0, most)):
            self.change()

    def step(self) -> None:
        what = self.chance.random()
        if what < 0.4:
            self.changes(3)
        elif what < 0.85:
            self.keep_some()
            self.take_over()
        else:
            self.kill()
        self.lab.settle(seconds=60)
        self.check()

    # Clients.

    def keep_some(self) -> None:
        """Some clients more that keep their connections and flows."""
        for service in self.services:
            if service.exists and service.pods and len(self.kept) < MOST_KEPT and self.chance.random() < 0.5:
                self.kept.append(self.connection(service))
                if service.has_udp:
                    self.kept.append(self.flow(service))

    def connection(self, service: Wanted) -> Kept:
        connection = KeptConnection(self.lab.client, (service.address, 80))
        return Kept(service, connection.ask, connection.close)

    def flow(self, service: Wanted) -> Kept:
        sock = self.lab.client.udp_socket((service.address, 53), 8.0)
        return Kept(service, partial(ask_over, sock), sock.close)

    def forget(self, which: Callable[[Kept], bool]) -> None:
        for each in filter(which, self.kept):
            each.close()
        self.kept = [each for each in self.kept if not which(each)]

    # What has to be so.

    def check(self) -> None:
        for service in self.services:
            if not service.exists:
                eventually(lambda ip=service.address: not self.lab.node.standing(ip), 30, f"{service.name} is gone")  # type: ignore[misc]
            elif service.pods:
                self.check_served(service)
            else:
                with pytest.raises(OSError, match=r"refused|[Rr]eset"):
                    fetch(self.lab.client, (service.address, 80), timeout=5)
        for kept in self.kept:
            assert kept.ask().pod == kept.pod, f"a client of {kept.service.name} that keeps its connection"
        self.check_figures()

    def check_served(self, service: Wanted) -> None:
        web: Address = (service.address, 80)
        at_node: Address = (self.lab.node.address, service.node_port)
        found = [fetch(self.lab.client, web, timeout=8).pod for _ in range(4)]
        if service.has_udp:
            found += [ask(self.lab.client, (service.address, 53), timeout=8).pod for _ in range(3)]
        if service.node_port:
            found.append(fetch(self.lab.client, at_node, timeout=8).pod)
        assert set(found) <= set(service.pods), service.name
        if service.affinity:
            assert len(set(found[:4])) == 1, service.name

    def check_figures(self) -> None:
        """No counter goes back, and all that is kept is told."""
        for each in self.admin.items("services"):
            service = next((one for one in self.services if one.name == each["name"] and one.exists), None)
            if service is not None:
                key = (service.name, service.generation, each["port"])
                assert each["total"] >= self.totals.get(key, 0), key
                self.totals[key] = each["total"]
        assert len(list(self.admin.items("connections"))) >= len(self.kept)

    def check_logs(self) -> None:
        """Nobody had a reason to complain, but of processes that were killed."""
        records = [record for proxy in self.lab.node.proxies for record in proxy.records]
        bad = [each for each in records if each.get("level") in {"error", "critical", None}]
        assert [each for each in bad if "SIGKILL" not in str(each)] == []


@contextmanager
def story(lab: Lab, seed: str) -> Iterator[Story]:
    """One that says what has happened where it does not end well."""
    lab.serve_http()
    told = Story(lab, seed)
    try:
        yield told
    except BaseException:
        print("What has happened last:", *told.told[-20:], sep="\n  ")
        raise
    finally:
        told.forget(lambda _: True)


@pytest.mark.sampled(2 * SEEDS)
@pytest.mark.timeout(120 + 15 * STEPS)
@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("cell", [Cell(driver) for driver in DRIVERS.values()], ids=str, indirect=True)
def test_whatever_happens_everybody_is_served_as_the_manifests_say(lab: Lab, cell: Cell, seed: int) -> None:
    with story(lab, f"{cell} {seed}") as told:
        lab.settle()
        for _ in range(STEPS):
            told.step()
        told.check_logs()
        assert told.proxy.terminate(30) == 0
    for service in told.services:
        assert not lab.node.standing(service.address)
