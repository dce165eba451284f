"""One proxy from its start to its stop."""

import asyncio
import gc
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import structlog

from userproxy import __version__
from userproxy.admin.rows import Planes
from userproxy.cluster.nodes import NodeAddresses, own_node_name
from userproxy.cluster.store import Store
from userproxy.config import AfterTakeover, PortalMode, Settings
from userproxy.forwarding.descriptors import raise_limit
from userproxy.model import IPFamily, Node, Problem
from userproxy.portals.drivers import DRIVERS
from userproxy.portals.interface import PortalDriver
from userproxy.processes.control.forwarding import ProcessForwarder
from userproxy.processes.loops import loop_factory, set_up_interpreter, started
from userproxy.processes.takeover.deference import Deference
from userproxy.processes.takeover.leaving import give_way
from userproxy.proxier.family.proxy import FamilyProxy
from userproxy.proxier.inspect.control_plane import LocalControlPlane
from userproxy.routing.node_ports import PRIMARY
from userproxy.sockets import NamedSockets
from userproxy.telemetry.logging import configure
from userproxy.telemetry.start import Start
from userproxy.wiring.admin import Admin, most_admin_connections, socket_path
from userproxy.wiring.better_portals import follow_better
from userproxy.wiring.config_watch import follow_configuration
from userproxy.wiring.conntrack_settings import ConntrackTask
from userproxy.wiring.families import build_family
from userproxy.wiring.forwarding import forwarding_options, log_as, make_forwarder, outlive
from userproxy.wiring.monitor import Monitor
from userproxy.wiring.node_wait import NodeWait, depends_on_node
from userproxy.wiring.portals import choose_portals, make_driver
from userproxy.wiring.source import Source, open_source, source_name
from userproxy.wiring.steering import Drains
from userproxy.wiring.succession.notify import notify
from userproxy.wiring.succession.reexec import succeed_on_signal
from userproxy.wiring.succession.stopping import Stop
from userproxy.wiring.succession.takeover import Takeover
from userproxy.wiring.tasks import run_until
from userproxy.wiring.watches.data_plane import DataPlaneWatches

log = structlog.get_logger()

_SERVERS = ("healthz", "metrics", "admin", "takeover")
"""The tasks that answer at listening sockets."""

_LAST_ANSWERS_SECONDS = 2.0
"""How long a process that has been taken over waits for the answers that its HTTP servers are giving."""

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(settings: Settings, read_again: Callable[[], Settings], deference: Deference) -> int:
    """Serve until SIGTERM or SIGINT and return the exit code.

    `read_again` returns new settings when the configuration file has changed, and raises UsageError if the file is
    invalid. `deference` ends when a predecessor is asked, or there is none. Raises UsageError if the settings name
    something that does not exist.
    """
    set_up_interpreter(starting=True)
    _set_oom_score(settings.oom_score_adj)
    with asyncio.Runner(loop_factory=loop_factory(settings.event_loop)) as runner:
        return runner.run(_serve(settings, read_again, deference))


def _set_oom_score(adjustment: int) -> None:
    """Set how readily the kernel kills us when memory runs out, as kube-proxy does (proc(5), oom_score_adj)."""
    try:
        Path("/proc/self/oom_score_adj").write_text(str(adjustment))
    except OSError as error:
        log.debug("The OOM score stays as it is", v=1, wanted=adjustment, reason=error.strerror)


async def _serve(settings: Settings, read_again: Callable[[], Settings], deference: Deference) -> int:
    loop = asyncio.get_running_loop()
    # The kernel would not end a container's first process, and nothing is to be undone yet.
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, os._exit, 0)
    proxy = _Proxy(settings, own_node_name(settings.hostname_override or "", socket.gethostname()), deference)
    try:
        clean = await proxy.run(read_again)
    finally:
        await proxy.close()
    return 0 if clean else 1


class _Proxy:
    """Builds the parts of one proxy and connects them. Raises KernelToolError if it could never serve."""

    def __init__(self, settings: Settings, node_name: str, deference: Deference) -> None:
        self._settings = settings
        self._latest = settings
        """With what has changed in the configuration file since the start."""
        self._node_name = node_name
        drivers, bind_addresses = choose_portals(settings)
        self._start = Start(tuple(drivers), partial(started, carries_traffic=settings.workers == 0))
        self._start.reached("program and settings loaded")
        log.info(
            "userproxy starts",
            version=__version__,
            node=node_name,
            source=source_name(settings),
            portals=drivers[IPFamily.IPV4].name,
            families=list(drivers),
        )
        self._store = Store(time.time())
        self._nodes = NodeAddresses(self._store, looks_up=not settings.manifests)
        translating = any(driver.traits.translates for driver in drivers.values())
        self._conntrack = ConntrackTask(settings, translating=translating)
        descriptor_limit = raise_limit()
        self._sockets = NamedSockets()
        self._monitor = Monitor(settings, drivers, descriptor_limit, self._sockets, self._start.synced)
        self._forwarder = make_forwarder(
            settings,
            forwarding_options(
                settings,
                node_name,
                drivers,
                bind_addresses,
                descriptor_limit,
                kept_descriptors=self._monitor.most_connections + most_admin_connections(descriptor_limit),
            ),
            at_once=not deference.is_under_way,
        )
        self._monitor.watch(self._forwarder.data_plane)
        self._monitor.count_events(self._store.events)
        self._forwarder.data_plane.loop_lag.start()
        if isinstance(self._forwarder, ProcessForwarder):
            self._forwarder.watch_processes(self._report)
        self._watches = DataPlaneWatches(self._forwarder.data_plane, self._report)
        self._descriptor_limit = descriptor_limit
        self._drains = Drains(self._forwarder.steering)
        self._source: Source | None = None
        self._node_seen: Node | None = None
        self._was_labelled = False
        self._families = [self._family(family, driver) for family, driver in drivers.items()]
        if isinstance(self._forwarder, ProcessForwarder):
            self._forwarder.keep(self._return_path_owners)
        self._stop = asyncio.Event()
        self._left: bool | None = None
        """Once this process is taken over: whether with its connections."""
        self._takeover = self._make_takeover(bind_addresses, deference)

    def _make_takeover(self, bind_addresses: Mapping[IPFamily, str], deference: Deference) -> Takeover:
        return Takeover(
            socket_path(self._settings),
            self._forwarder,
            self._families,
            self._sockets,
            partial(self._setup, bind_addresses),
            self._handed_over,
            wanted=self._settings.takeover,
            drains=self._drains,
            deference=deference,
        )

    def _family(self, family: IPFamily, driver: PortalDriver) -> FamilyProxy:
        return build_family(
            family,
            driver,
            self._settings,
            self._node_name,
            self._store,
            self._nodes,
            self._forwarder,
            self._monitor,
            self._report,
            self._sockets,
            self._until_turn,
            self._family_settled,
            self._drains.table,
        )

    async def run(self, read_again: Callable[[], Settings]) -> bool:
        """Serve until the stop has ended; returns False if rules are left that should have been removed."""
        settings, monitor = self._settings, self._monitor
        wait = NodeWait(self._knows_enough, self._changed)
        source = await open_source(settings, self._store, self._nodes, self._node_name, wait.source_changed, wait.end)
        self._source = source
        self._start.reached("manifests read" if settings.manifests else "source opened")
        monitor.ask_for_nodes(source.nodes_listed)
        if settings.manifests and self._node is None:
            monitor.node_seen(Node(self._node_name))  # manifests need not have one; then nobody is about to remove it
            if settings.node_port_addresses == (PRIMARY,):
                log.warning("No node ports are served: they are to be on our Node's addresses, and no manifest has it")
        _stop_on_signals(asyncio.get_running_loop(), self._stop)
        succeed_on_signal(asyncio.get_running_loop())
        tasks = {**source.tasks(), **monitor.tasks(source.server_failed, self._may_have_predecessor)}
        tasks |= self._conntrack.tasks()
        tasks |= self._watches.tasks(source.needs_pods)
        tasks |= self._admin(source).tasks(self._may_have_predecessor)
        tasks |= {**self._takeover.tasks(), **self._drains.tasks()}
        if settings.portals is PortalMode.AUTO:
            serving = DRIVERS[self._families[0].driver.name]
            tasks["better portals"] = follow_better(serving, settings.sync_period, self._move)
        for family in self._families:
            tasks |= family.tasks()
        if settings.config_file is not None:
            tasks["configuration"] = follow_configuration(settings, settings.config_file, read_again, self._apply)
        gc.freeze()
        outlive(self._forwarder, us=True)
        return await run_until(self._stop, tasks, self._leave)

    def _admin(self, source: Source) -> Admin:
        control = LocalControlPlane(self._families, source.watches, source.problems, self._problems_of_the_node)
        return Admin(
            lambda: self._latest,
            self._node_name,
            source_name(self._settings),
            Planes(control, self._forwarder.data_plane, self._drains.controls(lambda: self._settings.allow_faults)),
            self._monitor.healthy,
            most_admin_connections(self._descriptor_limit),
            self._sockets,
        )

    async def close(self) -> None:
        """Release everything. Rules stay as they are."""
        if self._source is not None:
            await self._source.close()
        self._drains.close()
        self._forwarder.shut_down()
        for family in self._families:
            await family.close()

    @property
    def _node(self) -> Node | None:
        return self._store.node(self._node_name)

    def _knows_enough(self) -> bool:
        """Whether our Node is known, or nothing depends on it. Looks at all Services as long as it is not."""
        known = self._node is not None and bool(self._node.addresses)
        return known or bool(self._settings.manifests) or not depends_on_node(self._settings, self._store)

    def _changed(self) -> None:
        node = self._node
        if node is not None and node is not self._node_seen:
            self._node_seen = node
            self._monitor.node_seen(node)
            self._was_labelled |= node.labelled
        for family in self._families:
            family.changed(node)

    def _report(self) -> None:
        problems = self._problems_of_the_node().union(*(family.problems for family in self._families))
        if isinstance(self._forwarder, ProcessForwarder):
            self._monitor.data_processes_are(self._forwarder.warnings, down=self._forwarder.is_down)
        self._monitor.problems_are(problems)
        if self._source is not None:
            self._source.report(problems)

    def _return_path_owners(self, family: IPFamily) -> list[int]:
        """The descriptors that tables go with without which no answer to a client's address comes back."""
        paths = (each.holdings.return_path for each in self._families if each.family is family)
        owners = (path.owner for path in paths if path is not None)
        return [owner.fileno() for owner in owners if owner is not None]

    def _problems_of_the_node(self) -> frozenset[Problem]:
        of_processes = self._forwarder.problems if isinstance(self._forwarder, ProcessForwarder) else frozenset()
        return self._watches.problems | of_processes

    async def _move(self, kind: type[PortalDriver]) -> bool:
        """Have this kind of driver serve each family for which it works; whether it does so for the first one."""
        moved = [
            await family.move_to(make_driver(self._settings, family.family, kind))
            for family in self._families
            if await asyncio.to_thread(kind.unusable, family.family) is None
        ]
        return bool(moved) and moved[0]

    def _may_have_predecessor(self) -> bool:
        return self._takeover.is_pending or any(family.may_have_predecessor for family in self._families)

    async def _until_turn(self) -> None:
        """Wait with the first sync: for a predecessor that hands over, and for whom rules lead clients to."""
        await self._takeover.until_turn()
        if isinstance(self._forwarder, ProcessForwarder):
            await self._forwarder.ready()

    def _family_settled(self, family: IPFamily) -> None:
        self._takeover.settled(family)
        if isinstance(self._forwarder, ProcessForwarder):
            self._forwarder.close_unasked(family)
        notify(f"MAINPID={os.getpid()}\nREADY=1")

    def _setup(self, bind_addresses: Mapping[IPFamily, str]) -> str:
        """What a successor has to have in common with us, so that our listeners and claims are of use to it."""
        families = (f"{each.family} by {each.driver.name} at {bind_addresses[each.family]}" for each in self._families)
        return ", ".join(families)

    def _handed_over(self, process: int, everything: bool) -> None:  # noqa: FBT001 -- as a Takeover calls it
        self._left = everything
        if everything:
            give_way()
        if process:
            notify(f"MAINPID={process}")
        self._stop.set()

    def _apply(self, latest: Settings) -> None:
        self._latest = latest
        configure(latest.verbosity, latest.log_format)
        log_as(self._forwarder, latest)
        self._monitor.apply(latest)
        self._conntrack.apply(latest)
        for family in self._families:
            family.set_periods(latest.min_sync_period, latest.sync_period)

    async def _leave(self, tasks: Mapping[str, asyncio.Task[None]]) -> bool:
        self._takeover.stop()
        outlive(self._forwarder, us=False)
        if self._left is not None:
            await self._leave_to_successor(tasks, connections=not self._left)
            return True
        notify("STOPPING=1")
        moving_out = self._was_labelled and self._node is not None and not self._node.labelled
        stop = Stop(self._settings, self._forwarder, self._families, self._monitor, tasks, moving_out=moving_out)
        return await stop.leave()

    async def _leave_to_successor(self, tasks: Mapping[str, asyncio.Task[None]], *, connections: bool) -> None:
        """The end of a process that is taken over: its `connections` may still be its own.

        What listens is the successor's, so nobody is to be answered here any more.
        """
        ending = [task for name, task in tasks.items() if not connections or name in _SERVERS]
        for task in ending:
            task.cancel()
        await asyncio.gather(*(family.close_health_checks() for family in self._families))
        if ending:  # clients who had been accepted here get their answers; to cancel a task again would cut that short
            await asyncio.wait(ending, timeout=_LAST_ANSWERS_SECONDS)
        if connections:
            log.info("Stopping", connections=self._forwarder.active, udp_flows=self._forwarder.flows)
            await self._forwarder.drain(self._settings.drain_timeout)
        if self._settings.after_takeover is AfterTakeover.WAIT:
            log.info("Waiting to be told to exit, for a successor serves")
            self._stop.clear()
            await self._stop.wait()


def _stop_on_signals(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            log.warning("Stopping now: connections are cut, and portals stay until `userproxy cleanup`")
            os._exit(1)
        log.debug("Signal received", v=1, signal=number.name)
        stop.set()

    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
