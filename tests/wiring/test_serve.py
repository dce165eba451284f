"""The start of a proxy, as far as it needs no kernel; tests/e2e has the rest."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from userproxy.addresses import SocketAddress
from userproxy.config import Settings
from userproxy.errors import KernelToolError
from userproxy.forwarding.ports.ranges import PortRange
from userproxy.wiring.serve import _kept_ports, _run_until, _source_name


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (Settings(manifests=(Path("/a"), Path("/b"))), "/a, /b"),
        (Settings(master="https://10.0.0.1:6443", kubeconfig=Path("/k")), "API server https://10.0.0.1:6443"),
        (Settings(kubeconfig=Path("/k")), "API server /k"),
        (Settings(), "API server of this cluster"),
    ],
)
def test_the_log_names_the_source(settings: Settings, name: str) -> None:
    assert _source_name(settings) == name


def test_listeners_leave_node_ports_and_our_own_servers_alone() -> None:
    node_ports, *own = _kept_ports(Settings(metrics_bind_address=SocketAddress("127.0.0.1", 9)))
    assert (node_ports.first, node_ports.last) == (30000, 32767)
    assert own == [PortRange(10256, 10256), PortRange(9, 9)]
    assert len(_kept_ports(Settings(healthz_bind_address=None))) == 2


async def forever() -> None:
    await asyncio.Event().wait()


async def test_tasks_run_by_their_names_until_the_stop_and_while_the_process_leaves() -> None:
    stop, seen = asyncio.Event(), []

    async def leave(tasks: Mapping[str, asyncio.Task[None]]) -> bool:
        seen.append({name: (task.get_name(), task.done()) for name, task in tasks.items()})
        return False

    stop.set()
    assert await _run_until(stop, {"a": forever(), "b": forever()}, leave) is False
    assert seen == [{"a": ("a", False), "b": ("b", False)}]


async def test_an_error_of_ours_ends_all_and_is_raised_alone() -> None:
    async def fail() -> None:
        raise KernelToolError("healthz: cannot listen")

    async def leave(_tasks: Mapping[str, asyncio.Task[None]]) -> bool:
        return True

    with pytest.raises(KernelToolError, match=r"^healthz: cannot listen$"):
        await _run_until(asyncio.Event(), {"a": forever(), "b": fail()}, leave)


async def test_a_bug_is_raised_with_its_group() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    async def leave(_tasks: Mapping[str, asyncio.Task[None]]) -> bool:
        return True

    with pytest.raises(ExceptionGroup) as caught:
        await _run_until(asyncio.Event(), {"a": fail()}, leave)
    assert caught.group_contains(ZeroDivisionError)
