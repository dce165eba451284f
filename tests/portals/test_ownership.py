"""Who may write the chains: processes of one network namespace exclude each other."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.portals.conftest import Network
from userproxy.errors import KernelToolError
from userproxy.model import IPFamily
from userproxy.portals.ownership import Ownership

HOLDER = """
import os, sys
from userproxy.model import IPFamily
from userproxy.portals.ownership import Ownership

if sys.argv[1]:
    os.seteuid(int(sys.argv[1]))
ownership = Ownership(IPFamily.IPV4)
ownership.take()
print("taken", flush=True)
sys.stdin.read()
"""


def holder(network: Network, user: str = "") -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", HOLDER, user]
    started = network.run(
        lambda: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/")
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "taken\n"
    return started


@pytest.fixture
def ours() -> Iterator[Ownership]:
    made = Ownership(IPFamily.IPV4)
    yield made
    made.release()


def test_there_is_one_for_each_family_and_network(network: Network, outside: Network, ours: Ownership) -> None:
    network.run(ours.take)
    network.run(ours.take)
    others = [Ownership(IPFamily.IPV4) for _ in range(2)]
    for _ in range(200):  # more often than anything queues up
        with pytest.raises(KernelToolError, match="another userproxy keeps the IPv4 portals of this node"):
            network.run(others[0].take)
    outside.run(others[1].take)
    six = Ownership(IPFamily.IPV6)
    network.run(six.take)
    ours.release()
    network.run(others[0].take)
    for each in (six, *others):
        each.release()


def test_it_goes_with_its_process(network: Network, ours: Ownership) -> None:
    with holder(network) as process:
        with pytest.raises(KernelToolError):
            network.run(ours.take)
        process.kill()
    network.run(ours.take)


def test_another_user_keeps_us_from_nothing(network: Network, ours: Ownership) -> None:
    with holder(network, "65534") as process:
        network.run(ours.take)
        process.kill()


FORKED = """
import os, sys
from userproxy.model import IPFamily
from userproxy.portals.ownership import Ownership

ownership = Ownership(IPFamily.IPV4)
ownership.take()
child = os.fork()
if child:
    print(child, flush=True)
sys.stdin.read()
"""


def test_what_a_killed_one_was_just_starting_holds_it_up_for_a_moment_only(network: Network, ours: Ownership) -> None:
    command = [sys.executable, "-c", FORKED]
    with (
        network.run(lambda: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)) as killed,
        ThreadPoolExecutor(1) as pool,
    ):
        assert killed.stdout is not None
        child = int(killed.stdout.readline())
        killed.kill()
        # A thread belongs to the network of the thread that starts it.
        taking = network.run(lambda: pool.submit(ours.take))
        os.kill(child, signal.SIGKILL)
        taking.result()
    with pytest.raises(KernelToolError):
        network.run(Ownership(IPFamily.IPV4).take)
