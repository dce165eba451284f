"""Manifests as the source of a proxy; tests/e2e/test_api.py has the API."""

import asyncio
from pathlib import Path

import pytest

from userproxy.cluster.nodes import NodeAddresses
from userproxy.cluster.store import Store
from userproxy.config import Settings
from userproxy.errors import UsageError
from userproxy.model import Problem, ProblemKind, ServiceName
from userproxy.wiring.source import open_source, source_name

WEB = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10], ports: [{port: 80}]}
"""


class Told:
    def __init__(self) -> None:
        self.changes = 0
        self.settled = 0

    def changed(self) -> None:
        self.changes += 1

    def node_settled(self) -> None:
        self.settled += 1


async def test_manifests_are_there_when_the_source_is_open(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(WEB)
    store, told = Store(), Told()
    settings = Settings(manifests=(tmp_path,))
    nodes = NodeAddresses(store, looks_up=False)
    source = await open_source(settings, store, nodes, "node-1", told.changed, told.node_settled)
    assert told.changes >= 1
    assert source.nodes_listed()
    source.report([Problem(ServiceName("shop", "web"), ProblemKind.PORT_CONFLICT, "taken")])
    source.server_failed("healthz", "cannot listen")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work, name=name) for name, work in source.tasks().items()]
        assert [task.get_name() for task in tasks] == ["watch manifests"]
        for task in tasks:
            task.cancel()
    await source.close()


async def test_a_kubeconfig_that_is_not_there_is_named(tmp_path: Path) -> None:
    store, told = Store(), Told()
    settings = Settings(kubeconfig=tmp_path / "none")
    nodes = NodeAddresses(store, looks_up=True)
    with pytest.raises(UsageError, match="none"):
        await open_source(settings, store, nodes, "node-1", told.changed, told.node_settled)


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
    assert source_name(settings) == name
