"""One proxy from its start to its stop."""

import asyncio
import gc
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from random import Random
from typing import Any

import structlog

from userproxy.cluster.node import own_node_name
from userproxy.cluster.node_addresses import NodeAddresses
from userproxy.cluster.store import Store
from userproxy.config import EventLoop, PortalMode, Settings
from userproxy.errors import UsageError, UserproxyError
from userproxy.forwarding.descriptors import raise_limit
from userproxy.forwarding.forwarder import Forwarder, ForwardingOptions
from userproxy.forwarding.listener_ports import NODE_PORTS
from userproxy.forwarding.ports import PortRange
from userproxy.model import IPFamily, Node, Problem
from userproxy.proxier.seams import PortalDriver
from userproxy.telemetry.logging import configure
from userproxy.wiring.conntrack import ConntrackTask
from userproxy.wiring.family import FamilyProxy
from userproxy.wiring.monitor import Monitor
from userproxy.wiring.portals import choose_portals, remove_portals
from userproxy.wiring.reload import follow_configuration
from userproxy.wiring.truth import open_truth

log = structlog.get_logger()

_COLLECT_EVERY = 50_000
"""Allocations between garbage collections. Connections leave no cycles behind, so the default of 700
would only walk live objects again and again."""

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(settings: Settings, read_again: Callable[[], Settings]) -> int:
    """Serve until SIGTERM or SIGINT and return the exit code.

    `read_again` gives the settings anew when the configuration file has changed; it raises UsageError where that
    is wrong. Raises UsageError where the settings name something that is not there.
    """
    gc.set_threshold(_COLLECT_EVERY)
    _set_oom_score(settings.oom_score_adj)
    with asyncio.Runner(loop_factory=_loop_factory(settings.event_loop)) as runner:
        return runner.run(_serve(settings, read_again))


def _loop_factory(choice: EventLoop) -> Callable[[], asyncio.AbstractEventLoop]:
    if choice is EventLoop.ASYNCIO:
        return asyncio.new_event_loop
    try:
        import uvloop
    except ImportError as error:
        if choice is EventLoop.UVLOOP:
            raise UsageError(f"--event-loop: uvloop cannot be loaded: {error}") from error
        log.warning("uvloop cannot be loaded: asyncio's own event loop serves, at more CPU", reason=str(error))
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _set_oom_score(adjustment: int) -> None:
    """Make the kernel spare us (or not) when memory runs out, as kube-proxy does (proc(5), oom_score_adj)."""
    try:
        Path("/proc/self/oom_score_adj").write_text(str(adjustment))
    except OSError as error:
        log.debug("The OOM score stays as it is", v=1, wanted=adjustment, reason=error.strerror)


async def _serve(settings: Settings, read_again: Callable[[], Settings]) -> int:
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:  # there is nothing to take back yet, and a container's first process must do it itself
        loop.add_signal_handler(number, os._exit, 0)
    node_name = own_node_name(settings.hostname_override or "", socket.gethostname())
    store = Store(time.time())
    nodes = NodeAddresses(store, looks_up=not settings.manifests)
    proxies: list[FamilyProxy] = []
    drivers, bind_addresses = await choose_portals(settings)
    translating = not any(driver.name == PortalMode.NONE for driver in drivers.values())
    conntrack = ConntrackTask(settings, translating=translating)
    descriptor_limit = raise_limit()
    monitor = Monitor(settings, drivers, descriptor_limit)
    forwarder = Forwarder(
        loop,
        ForwardingOptions(
            bind_addresses=bind_addresses,
            port_range=settings.port_range,
            portals_only=translating,
            half_open_timeout=settings.half_open_timeout,
            udp_timeout=settings.udp_timeout,
            descriptor_limit=descriptor_limit,
            kept_ports=_kept_ports(settings),
            kept_descriptors=monitor.most_connections,
        ),
        Random(),  # noqa: S311 -- spreads load, keeps no secret
    )

    def changed() -> None:
        node = store.nodes.get(node_name)
        if node is not None:
            monitor.node_seen(node)
        monitor.queued(store.events)
        for proxy in proxies:
            proxy.changed(node)

    def report() -> None:
        truth.report(frozenset[Problem]().union(*(proxy.problems for proxy in proxies)))

    def apply(latest: Settings) -> None:
        configure(latest.verbosity, latest.log_format)
        monitor.apply(latest)
        conntrack.apply(latest)
        for proxy in proxies:
            proxy.apply(latest)

    proxies += [
        FamilyProxy(
            settings, Node(node_name), store.subscribe(family), forwarder, driver, monitor.family(family), report, nodes
        )
        for family, driver in drivers.items()
    ]
    try:
        truth = await open_truth(settings, store, nodes, node_name, changed)
        monitor.ask_for_nodes(truth.nodes_listed)
        if settings.manifests and node_name not in store.nodes:
            monitor.node_seen(Node(node_name))  # manifests need not have one, and then nobody is about to remove it
        try:
            stop = _stop_on_signals(loop)
            tasks = {**truth.tasks(), **monitor.tasks(truth.server_failed), **conntrack.tasks()}
            for proxy in proxies:
                tasks |= proxy.tasks()
            if settings.config_file is not None:
                tasks["configuration"] = follow_configuration(settings, settings.config_file, read_again, apply)
            gc.freeze()
            await _until(stop, tasks)
            clean = await _leave(forwarder, drivers, settings.drain_timeout)
        finally:
            await truth.close()
    finally:
        forwarder.shut_down()
        for proxy in proxies:
            await proxy.close()
    return 0 if clean else 1


def _kept_ports(settings: Settings) -> tuple[PortRange, ...]:
    """What no listener may take, because others will need it: node ports, and the ports of our own servers."""
    servers = (settings.healthz_bind_address, settings.metrics_bind_address)
    return (NODE_PORTS, *(PortRange(each.port, each.port) for each in servers if each is not None))


async def _until(stop: asyncio.Event, eternal: Mapping[str, Coroutine[Any, Any, None]]) -> None:
    """Run coroutines that never end, each as a task of its name, until `stop` is set."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine, name=name) for name, coroutine in eternal.items()]
            await stop.wait()
            for task in tasks:
                task.cancel()
    except ExceptionGroup as errors:
        raise _sentence(errors) or errors from None


def _sentence(error: Exception) -> UserproxyError | None:
    """The first of a group's errors that was raised on purpose: its text is all that a person needs."""
    if isinstance(error, UserproxyError):
        return error
    inner = error.exceptions if isinstance(error, ExceptionGroup) else ()
    return next((found for found in map(_sentence, inner) if found), None)


async def _leave(forwarder: Forwarder, drivers: Mapping[IPFamily, PortalDriver], drain_timeout: float) -> bool:
    """Drain, and take the portals away; whether they are gone."""
    log.info(
        "Stopping: no new connections, waiting for those under way",
        connections=forwarder.active,
        udp_flows=forwarder.flows,
    )
    reset = await forwarder.drain(drain_timeout)
    if reset:
        log.warning("Connections were reset, because they outlasted --drain-timeout", connections=reset)
    removed = await remove_portals(drivers)
    if removed:
        log.info("Stopped: drained, portals removed")
    return removed


def _stop_on_signals(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            log.warning("Stopping now: connections are cut, and portals stay until `userproxy cleanup`")
            os._exit(1)
        log.debug("Signal received", v=1, signal=number.name)
        stop.set()

    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    return stop
