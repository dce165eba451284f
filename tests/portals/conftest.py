"""Private networks for tests of the adapters: a thread with its own network and mount namespace."""

import asyncio
import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from userproxy.demo.tools import require_tool
from userproxy.model import IPFamily
from userproxy.portals.iptables.variant import Tools, Variant, installed

T = TypeVar("T")

_CLONE_NEWNS = 0x00020000  # linux/sched.h
_CLONE_NEWNET = 0x40000000
_MS_REC = 0x4000  # linux/mount.h
_MS_PRIVATE = 1 << 18


class Network:
    """A network namespace of its own; what runs in it, and the programs it starts, see nothing of the host's.

    /run is its own too, so that iptables' lock is not shared with the host. Everything vanishes with
    the thread.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self.thread_id = self._thread.submit(_enter).result()

    def run(self, work: Callable[[], T]) -> T:
        return self._thread.submit(work).result()

    def run_loop(self, scenario: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return self.run(lambda: asyncio.run(scenario()))

    def shell(self, *command: str, text: str = "") -> str:
        """The output of a program that must succeed."""
        return self.run(lambda: shell(*command, text=text))

    def close(self) -> None:
        self._thread.shutdown()


def shell(*command: str, text: str = "") -> str:
    require_tool(command[0])
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def _enter() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET))
    _check(libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))
    _check(libc.mount(b"none", b"/run", b"tmpfs", 0, None))
    shell("ip", "link", "set", "lo", "up")
    return threading.get_native_id()


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.fixture
def network() -> Iterator[Network]:
    if os.geteuid() != 0:
        pytest.skip("needs root: makes a network namespace")
    made = Network()
    yield made
    made.close()


@pytest.fixture
def outside(network: Network) -> Iterator[Network]:
    """A second network, for a client."""
    made = Network()
    yield made
    made.close()


@pytest.fixture
def pod(network: Network) -> Iterator[Network]:
    """A third network, for a Pod of the node."""
    made = Network()
    yield made
    made.close()


@pytest.fixture(params=[(family, variant) for family in IPFamily for variant in Variant], ids=lambda p: "-".join(p))
def tools(request: pytest.FixtureRequest) -> Tools:
    """The programs of one address family and variant; a test runs once for each."""
    return tools_of(*request.param)


def tools_of(family: IPFamily, variant: Variant) -> Tools:
    """The programs of one address family and variant, without which a test is skipped."""
    for found in installed(family):
        if found.variant is variant:
            return found
    pytest.skip(f"needs the {variant} variant of iptables for {family}")


@pytest.fixture
def node(network: Network, tools: Tools) -> Network:
    """A network whose kubelet uses `tools`, with 192.0.2.10 and 2001:db8::10 on eth0, and default routes."""
    use(network, tools)
    return with_addresses(network)


def use(network: Network, tools: Tools) -> None:
    """Have kubelet use these programs."""
    network.shell(tools.restore, "--noflush", text="*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n")


def with_addresses(network: Network) -> Network:
    """The network with 192.0.2.10 and 2001:db8::10 on eth0, and default routes."""
    network.shell("ip", "link", "add", "lan0", "type", "bridge")
    network.shell("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far0")
    network.shell("ip", "link", "set", "far0", "master", "lan0")  # else it is a link of this host, without an address
    network.shell("ip", "address", "add", "192.0.2.10/24", "dev", "eth0")
    network.shell("ip", "address", "add", "2001:db8::10/64", "dev", "eth0", "nodad")
    network.shell("ip", "link", "set", "eth0", "up")
    network.shell("ip", "link", "set", "far0", "up")
    network.shell("ip", "route", "add", "default", "via", "192.0.2.1")
    network.shell("ip", "route", "add", "default", "via", "2001:db8::1")
    return network
