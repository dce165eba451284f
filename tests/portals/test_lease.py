"""Who may write the chains: processes of one network namespace exclude each other."""

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest

from tests.portals.conftest import Network
from userproxy.errors import KernelToolError
from userproxy.model import IPFamily
from userproxy.portals.lease import Lease, Succession

HOLDER = """
import os, sys
from userproxy.model import IPFamily
from userproxy.portals.lease import Lease

if sys.argv[1]:
    os.seteuid(int(sys.argv[1]))
lease = Lease(IPFamily.IPV4)
lease.take()
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
def ours() -> Iterator[Lease]:
    made = Lease(IPFamily.IPV4)
    yield made
    made.release()


def test_there_is_one_for_each_family_and_network(network: Network, outside: Network, ours: Lease) -> None:
    network.run(ours.take)
    network.run(ours.take)
    others = [Lease(IPFamily.IPV4) for _ in range(2)]
    for _ in range(200):  # more often than anything queues up
        with pytest.raises(KernelToolError, match="another userproxy keeps the IPv4 portals of this node"):
            network.run(others[0].take)
    outside.run(others[1].take)
    six = Lease(IPFamily.IPV6)
    network.run(six.take)
    ours.release()
    network.run(others[0].take)
    for each in (six, *others):
        each.release()


def test_it_goes_with_its_process(network: Network, ours: Lease) -> None:
    with holder(network) as process:
        with pytest.raises(KernelToolError):
            network.run(ours.take)
        process.kill()
    network.run(ours.take)


def test_another_user_keeps_us_from_nothing(network: Network, ours: Lease) -> None:
    with holder(network, "65534") as process:
        network.run(ours.take)
        process.kill()


FORKED = """
import os, sys
from userproxy.model import IPFamily
from userproxy.portals.lease import Lease

lease = Lease(IPFamily.IPV4)
lease.take()
child = os.fork()
if child:
    print(child, flush=True)
sys.stdin.read()
"""


def test_what_a_killed_one_was_just_starting_holds_it_up_for_a_moment_only(network: Network, ours: Lease) -> None:
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
        network.run(Lease(IPFamily.IPV4).take)


def test_nobody_who_asks_is_let_through_when_the_owner_hears_nobody(network: Network, ours: Lease) -> None:
    network.run(ours.take)
    queue = []
    while True:
        asking = network.run(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        queue.append(asking)
        try:
            asking.connect("\0userproxy-portals-IPv4")
        except BlockingIOError:
            break
    assert len(queue) > 100
    with pytest.raises(KernelToolError, match="another userproxy keeps the IPv4 portals"):
        network.run(Lease(IPFamily.IPV4).take)
    for asking in queue:
        asking.close()


def test_a_full_queue_of_another_user_keeps_us_from_nothing(network: Network, ours: Lease) -> None:
    with holder(network, "65534") as process:
        queue = []
        for _ in range(200):
            asking = network.run(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            asking.connect_ex("\0userproxy-portals-IPv4")
            queue.append(asking)
        network.run(ours.take)
        network.run_loop(ours.acquire)
        process.kill()
        for asking in queue:
            asking.close()


@asynccontextmanager
async def owner() -> AsyncIterator[Lease]:
    made = Lease(IPFamily.IPV4)
    await made.acquire()
    yield made
    made.release()


@asynccontextmanager
async def watched() -> AsyncIterator[Succession]:
    succession = Succession(IPFamily.IPV4)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(succession.watch(), name="watch")
        yield succession
        task.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until `condition()` holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def test_who_waits_has_it_as_soon_as_it_is_given_up_and_the_old_one_learns_when_rules_stand(network: Network) -> None:
    async def scenario() -> None:
        async with asyncio.TaskGroup() as group, owner() as old:
            assert not old.contended
            successor = Lease(IPFamily.IPV4)
            waiting = group.create_task(successor.acquire(), name="successor")
            await until(lambda: old.contended)
            old.announce()  # it is no news to one that waits
            assert not waiting.done()
            old.release()
            async with asyncio.timeout(0.5), watched() as succession:
                await waiting
                await until(lambda: succession.taken)
                assert not succession.stands
                successor.announce()
                await until(lambda: succession.stands)
                successor.release()
                await until(lambda: not succession.taken and not succession.stands)

    network.run_loop(scenario)


def test_it_can_be_had_again_unless_another_one_has_it(network: Network) -> None:
    async def scenario() -> None:
        async with owner() as first:
            first.release()
            assert first.regain()
            assert first.regain()
            first.release()
            async with owner():
                assert not first.regain()

    network.run_loop(scenario)


def test_whoever_comes_late_is_told_too_and_of_many_one_has_it(network: Network) -> None:
    async def scenario() -> None:
        async with asyncio.TaskGroup() as group, owner() as first:
            first.announce()
            async with watched() as succession:
                await until(lambda: succession.stands)
            others = [Lease(IPFamily.IPV4) for _ in range(150)]
            waiting = {group.create_task(other.acquire(), name="other"): other for other in others}
            await until(lambda: first.contended)
            first.release()
            for _ in others:
                async with asyncio.timeout(10):
                    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                (one,) = done
                waiting.pop(one).release()

    network.run_loop(scenario)


def test_a_want_of_descriptors_is_waited_out(network: Network) -> None:
    async def scenario() -> None:
        async with owner() as first, watched() as succession:
            first.announce()
            await until(lambda: succession.stands)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
            try:
                first.release()
                await until(lambda: not succession.taken)
                assert not first.regain()
                with pytest.raises(KernelToolError):
                    await asyncio.to_thread(first.take)
                await asyncio.sleep(0.05)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert first.regain()
            await until(lambda: succession.taken)

    network.run_loop(scenario)


def test_a_contender_that_gives_up_is_forgotten(network: Network) -> None:
    async def scenario() -> None:
        async with asyncio.TaskGroup() as group, owner() as first:
            other = group.create_task(Lease(IPFamily.IPV4).acquire(), name="other")
            await until(lambda: first.contended)
            other.cancel()
            await until(lambda: not first.contended)

    network.run_loop(scenario)


def test_who_waits_for_a_process_has_it_when_that_is_killed(network: Network, ours: Lease) -> None:
    async def scenario() -> None:
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            waiting = group.create_task(ours.acquire(), name="ours")
            await asyncio.sleep(0)
            assert not waiting.done()
            process.kill()

    with holder(network) as process:
        network.run_loop(scenario)
    with pytest.raises(KernelToolError):
        network.run(Lease(IPFamily.IPV4).take)


def test_whoever_gets_a_copy_has_it_too_and_goes_on_with_it(network: Network) -> None:
    first, second, third = network.run(lambda: [Lease(IPFamily.IPV4) for _ in range(3)])
    network.run(first.take)
    assert first.socket is not None
    second.adopt(os.dup(first.socket.fileno()))
    first.release()
    with pytest.raises(KernelToolError, match="another userproxy keeps"):
        network.run(third.take)
    second.check()
    second.release()
    network.run(third.take)
    third.release()
