"""Which Node we are."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from userproxy.cluster.store import Store
from userproxy.errors import UsageError
from userproxy.model import Node

log = structlog.get_logger()

_LOOK_EVERY: Final = 1.0


def own_node_name(override: str, host_name: str) -> str:
    """The name of our Node: ``--hostname-override``, else the host's name; trimmed and in lower case, as kubelet's.

    Raises UsageError where nothing is left.
    """
    name = (override.strip() or host_name.strip()).lower()
    if not name:
        raise UsageError("--hostname-override: the host has no name, so our Node's must be given")
    return name


async def wait_for_addresses(store: Store, name: str, listed: Callable[[], bool], limit: float = 30.0) -> Node | None:
    """Our Node once it has addresses; after `limit` seconds what there is of it, and a line in the log.

    `listed` says whether the API server has told of Nodes at all. kube-proxy waits as long, and serves all the same.
    """
    try:
        async with asyncio.timeout(limit):
            while True:
                if (found := store.nodes.get(name)) and found.addresses:
                    return found
                await asyncio.sleep(_LOOK_EVERY)
    except TimeoutError:
        if name in store.nodes:
            missing = "has no addresses"
        else:
            missing = "is not in the API" if listed() else "has not been read from the API server yet"
        log.warning(f"Our Node {missing}; serving without", node=name, waited_seconds=limit)
        return store.nodes.get(name)
