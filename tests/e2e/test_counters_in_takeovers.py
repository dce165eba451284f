"""No counter goes back or jumps while one userproxy takes over from another, whichever of the two is asked."""

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from itertools import pairwise
from typing import Final

import pytest

from tests.lab.cluster import QUICK, Lab
from tests.lab.probes import KeptConnection
from userproxy.admin.client import AdminClient
from userproxy.demo.hosts import Address
from userproxy.demo.traffic import fetch, fetch_many
from userproxy.demo.waiting import eventually

pytestmark = pytest.mark.e2e

WEB: Final[Address] = ("10.96.0.10", 80)
METRICS: Final[Address] = ("127.0.0.1", 10249)
BEFORE: Final = 500
"""Connections before the first take-over: figures that begin anew are so much smaller."""

MOST: Final = BEFORE // 2
"""Clients come one after the other, fifty a second at most: so many are not served between two looks."""

KEPT: Final = 3
_OPENED: Final = re.compile(rb'^userproxy_connections_opened_total\{[^}]*service="web"[^}]*\} (\S+)$', re.MULTILINE)


def of_service(text: bytes) -> int:
    """How many clients the Service has had, by the admin API."""
    return next((int(each["total"]) for each in json.loads(text)["items"] if each["name"] == "web"), 0)


def of_metrics(text: bytes) -> int:
    """The same by the metrics."""
    found = _OPENED.search(text)
    return int(float(found[1])) if found else 0


class Reader:
    """Asks for a number again and again, on a connection that it keeps for as long as who answers does."""

    def __init__(self, connect: Callable[[], socket.socket], path: str, number: Callable[[bytes], int]) -> None:
        self.found: list[int] = []
        self._connect = connect
        self._path = path
        self._number = number

    def look(self, ended: threading.Event) -> None:
        """Ask until there is no answer, or `ended` is set."""
        connection = HTTPConnection("localhost")
        try:
            connection.sock = self._connect()
            while connection.sock is not None and not ended.is_set():
                connection.request("GET", self._path)
                answer = connection.getresponse()
                text = answer.read()
                assert answer.status == 200, text
                self.found.append(self._number(text))
        except (OSError, HTTPException):  # it was left alone between two questions: another process answers
            pass
        finally:
            connection.close()


@contextmanager
def again_and_again(*looks: Callable[[threading.Event], None]) -> Iterator[list[BaseException]]:
    """Call each in a thread of its own until the end of the context; what they raise is what the context is."""
    ended = threading.Event()
    raised: list[BaseException] = []

    def run(look: Callable[[threading.Event], None]) -> None:
        try:
            while not ended.wait(0.001):
                look(ended)
        except BaseException as error:  # noqa: BLE001 -- it is the test's
            raised.append(error)

    threads = [threading.Thread(target=run, args=(each,)) for each in looks]
    for thread in threads:
        thread.start()
    try:
        yield raised
    finally:
        ended.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("workers", ["0", "2"])
def test_figures_go_on_in_take_overs(lab: Lab, workers: str) -> None:
    lab.serve_http()
    lab.manifests.service("web", cluster_ip=WEB[0])
    lab.manifests.slice("web", lab.pods)
    proxy = lab.node.start_userproxy(*QUICK, "--workers", workers)
    lab.settle()
    assert not fetch_many(lab.client, WEB, BEFORE).failures
    path = lab.node.path("/run/userproxy/admin.sock")
    listed: list[int] = []

    def admin() -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(10)
        made.connect(str(path))
        return made

    def traffic(_: threading.Event) -> None:
        with suppress(OSError):
            fetch(lab.client, WEB, timeout=5)

    def connections(_: threading.Event) -> None:
        listed.append(len(AdminClient(path).get("connections")["items"]))

    services = Reader(admin, "/v1/services", of_service)
    metrics = Reader(lambda: lab.node.connect(METRICS, 10), "/metrics", of_metrics)
    with ExitStack() as stack:
        for _ in range(KEPT):
            stack.enter_context(KeptConnection(lab.client, WEB)).ask()
        raised = stack.enter_context(again_and_again(services.look, metrics.look, connections, traffic))

        def asked() -> None:
            before = [len(each) for each in (services.found, metrics.found, listed)]

            def more() -> bool:
                now = [len(each) for each in (services.found, metrics.found, listed)]
                return all(there > then + 5 for there, then in zip(now, before, strict=True))

            eventually(lambda: raised or more(), 60, "figures are asked for")

        asked()
        for number in (workers, "0" if workers == "2" else "2", workers):
            successor = lab.node.start_userproxy(*QUICK, "--workers", number, "--takeover")
            successor.wait_log("Taken over", 60)
            assert proxy.wait(30) == 0
            proxy = successor
            asked()
    assert raised == []
    for found in (services.found, metrics.found):
        assert min(found) >= BEFORE
        assert all(0 <= now - then < MOST for then, now in pairwise(found)), found
    assert min(listed) >= KEPT
