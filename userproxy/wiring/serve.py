"""One proxy from its start to its stop."""

import asyncio
import gc
import os
import signal
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from random import Random
from typing import Any

import structlog

from userproxy.config import EventLoop, PortalMode, Settings
from userproxy.errors import KernelToolError, UsageError, UserproxyError
from userproxy.forwarding.descriptors import raise_limit
from userproxy.forwarding.forwarder import Forwarder, ForwardingOptions
from userproxy.portals.claims import PortClaims
from userproxy.portals.iptables import IptablesDriver
from userproxy.portals.none import NoPortals
from userproxy.proxier.proxier import Proxier
from userproxy.proxier.runner import SyncRunner
from userproxy.proxier.seams import PortalDriver
from userproxy.telemetry.logging import configure
from userproxy.wiring.monitor import Monitor
from userproxy.wiring.reload import follow_configuration
from userproxy.wiring.truth import open_truth

log = structlog.get_logger()

_LOOPBACK = "127.0.0.1"

_COLLECT_EVERY = 50_000
"""Allocations between garbage collections. Connections leave no cycles behind, so the default of 700
would only walk live objects again and again."""


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
    syncs = SyncRunner(settings.min_sync_period, settings.sync_period)
    monitor = Monitor(settings)
    truth = await open_truth(settings, monitor, syncs.request)
    stop = _stop_on_signals(loop)
    driver, bind_address = await _choose_portals(settings)
    forwarder = Forwarder(
        loop,
        ForwardingOptions(
            bind_address=bind_address,
            port_range=settings.port_range,
            portals_only=driver.name != PortalMode.NONE,
            half_open_timeout=settings.half_open_timeout,
            descriptor_limit=raise_limit(),
        ),
        Random(),  # noqa: S311 -- spreads load, keeps no secret
    )
    claims = PortClaims()
    proxier = Proxier(truth.store, forwarder, driver, claims, settings.proxy_name)

    async def sync(verify: bool) -> bool:  # noqa: FBT001 -- as the runner calls it
        with monitor.syncing() as outcome:
            outcome.ok = await proxier.sync(verify=verify)
        monitor.rules_stand(driver.rule_counts)
        truth.report(proxier.problems)
        return outcome.ok

    def apply(changed: Settings) -> None:
        configure(changed.verbosity, changed.log_format)
        syncs.set_periods(changed.min_sync_period, changed.sync_period)

    tasks = {"sync": syncs.run(sync), **truth.tasks(), **monitor.tasks()}
    if settings.config_file is not None:
        tasks["configuration"] = follow_configuration(settings, settings.config_file, read_again, apply)
    gc.freeze()
    try:
        await _until(stop, tasks)
        await _leave(forwarder, driver, settings.drain_timeout)
    finally:
        forwarder.shut_down()
        claims.close()
        await driver.close()
        await truth.close()
    return 0


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


async def _leave(forwarder: Forwarder, driver: PortalDriver, drain_timeout: float) -> None:
    log.info("Stopping: no new connections, waiting for those under way", connections=forwarder.active)
    reset = await forwarder.drain(drain_timeout)
    if reset:
        log.warning("Connections were reset, because they outlasted --drain-timeout", connections=reset)
    for text in await driver.remove():
        log.debug("Removed", v=1, what=text)
    log.info("Stopped: drained, portals removed", portals=driver.name)


async def _choose_portals(settings: Settings) -> tuple[PortalDriver, str]:
    """The portal driver, and the address that listeners bind to with it."""
    if settings.portals is not PortalMode.NONE:
        driver = IptablesDriver(settings.bind_address)
        try:
            await driver.local_ports()
        except KernelToolError as error:
            if settings.portals is PortalMode.IPTABLES:
                log.error("iptables does not work yet, and will be tried again", reason=str(error))
                return driver, settings.bind_address
            await driver.close()
            log.warning("Portals: none, because iptables does not work here", reason=str(error))
        else:
            log.info("Portals: iptables", bind_address=settings.bind_address)
            return driver, settings.bind_address
    bind_address = _LOOPBACK if settings.bind_address == "0.0.0.0" else settings.bind_address
    return NoPortals(bind_address), bind_address


def _stop_on_signals(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            log.warning("Stopping now: connections are cut, and portals stay until `userproxy cleanup`")
            os._exit(1)
        log.debug("Signal received", v=1, signal=number.name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop
