"""What carries the traffic: this process, or data processes."""

import asyncio
import os
from collections.abc import Mapping
from random import Random
from typing import Final, TypeAlias

from userproxy.config import Settings
from userproxy.errors import KernelToolError
from userproxy.forwarding.assembly.options import ForwardingOptions
from userproxy.forwarding.forwarder import Forwarder
from userproxy.forwarding.ports.listeners import NODE_PORTS
from userproxy.forwarding.ports.ranges import PortRange
from userproxy.model import IPFamily
from userproxy.portals.interface import PortalDriver
from userproxy.processes.control.forwarding import ProcessForwarder
from userproxy.processes.control.spawning import Spawning
from userproxy.processes.messages import Logging
from userproxy.wiring.admin import socket_path

AnyForwarder: TypeAlias = Forwarder | ProcessForwarder

_MOST_BY_DEFAULT: Final = 4


def workers_for(processors: int) -> int:
    """How many data processes ``--workers auto`` has on a node with so many processors.

    One of them is left to the control process, and to the Pods that are the proxy's clients and endpoints: where these
    need the processors, too, another data process carries nothing more (docs/performance.md).
    """
    return max(1, min(_MOST_BY_DEFAULT, processors - 1))


def make_forwarder(settings: Settings, options: ForwardingOptions, *, at_once: bool = True) -> AnyForwarder:
    """What ``--workers`` asks for. Raises KernelToolError where data processes cannot be started.

    `at_once` is as of :class:`ProcessForwarder`.
    """
    loop = asyncio.get_running_loop()
    random = Random()  # noqa: S311 -- spreads load, keeps no secret
    workers = settings.workers
    if workers is None:
        workers = workers_for(len(os.sched_getaffinity(0)))
    if not workers:
        return Forwarder(loop, options, random)
    try:
        return ProcessForwarder(loop, options, random, workers, _spawning(settings), _path(settings), at_once=at_once)
    except OSError as error:
        raise KernelToolError(f"--workers {workers}: data processes cannot be started: {error.strerror}") from error


def forwarding_options(
    settings: Settings,
    node_name: str,
    drivers: Mapping[IPFamily, PortalDriver],
    bind_addresses: Mapping[IPFamily, str],
    descriptor_limit: int,
    kept_descriptors: int,
) -> ForwardingOptions:
    """How to forward to what such drivers bring, of all families."""
    return ForwardingOptions(
        bind_addresses=bind_addresses,
        port_range=settings.port_range,
        portals_only=any(driver.traits.translates for driver in drivers.values()),
        half_open_timeout=settings.half_open_timeout,
        udp_timeout=settings.udp_timeout,
        descriptor_limit=descriptor_limit,
        kept_ports=kept_ports(settings),
        kept_descriptors=kept_descriptors,
        bind_portals=any(driver.traits.binds_portals for driver in drivers.values()),
        node_name=node_name,
        trusted_proxies=settings.trusted_proxies,
        queue_timeout=settings.queue_timeout,
    )


def kept_ports(settings: Settings) -> tuple[PortRange, ...]:
    """Ports that no listener may take: node ports, and those of our own servers."""
    servers = (settings.healthz_bind_address, settings.metrics_bind_address)
    return (NODE_PORTS, *(PortRange(each.port, each.port) for each in servers if each is not None))


def log_as(forwarder: AnyForwarder, settings: Settings) -> None:
    """Have data processes, where there are any, log as these settings say from now on."""
    if isinstance(forwarder, ProcessForwarder):
        forwarder.log_as(_spawning(settings))


def outlive(forwarder: AnyForwarder, *, us: bool) -> None:
    """Whether data processes, where there are any, serve on if this process goes without a word."""
    if isinstance(forwarder, ProcessForwarder):
        forwarder.outlive(us=us)


def _path(settings: Settings) -> str:
    """Where data processes are found that have lost their control process: beside the admin socket."""
    path = socket_path(settings)
    return "" if path is None else str(path)


def _spawning(settings: Settings) -> Spawning:
    return Spawning(settings.event_loop, Logging(settings.verbosity, settings.log_format))
