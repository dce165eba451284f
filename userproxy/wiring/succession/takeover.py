"""A take-over as the whole proxy sees it: what is handed over, and where it goes (``--takeover``)."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import structlog

from userproxy import __version__
from userproxy.admin.listening import AdminSocket, SocketTakenError, SocketUnavailableError, may_ask, process_of
from userproxy.errors import UserproxyError
from userproxy.forwarding.forwarder import Forwarder
from userproxy.forwarding.handover.values import release
from userproxy.model import IPFamily, ListenerName, Protocol, ServicePortName, TrafficClass
from userproxy.processes.control.forwarding import ProcessForwarder
from userproxy.processes.loops import serve_traffic
from userproxy.processes.takeover.deference import Deference
from userproxy.processes.takeover.messages import PlainListener
from userproxy.processes.takeover.packages import GivesPackages, LocalPackages
from userproxy.processes.takeover.predecessor import Possessions, Predecessor
from userproxy.processes.takeover.successor import (
    BACKLOG_SECONDS,
    CannotServeError,
    Heir,
    NotTakenOverError,
    RefusedError,
    Successor,
)
from userproxy.proxier.family.proxy import FamilyProxy
from userproxy.sockets import NamedSockets
from userproxy.wiring.forwarding import AnyForwarder
from userproxy.wiring.steering import DRAINS, Drains

log = structlog.get_logger()

_TRY_SECONDS: Final = 1.0
"""For how long a successor looks for a predecessor, which may itself just have taken somebody's place."""

_TRY_EVERY: Final = 0.05
_LISTEN_AGAIN_SECONDS: Final = 0.1
_SERVERS_ASK_SECONDS: Final = 2.0
_UNASKED_SECONDS: Final = 60.0
"""A family that does not serve by then has no use for what its predecessor had."""


class TakeOverError(UserproxyError):
    """This process cannot take its predecessor's place. The text is a sentence."""


def takeover_path(admin_socket: Path) -> Path:
    """Where successors ask, by where commands do."""
    return admin_socket.with_name(f"{admin_socket.name}.takeover")


class Takeover:
    """Takes over from a predecessor, if that is `wanted`, and hands over to successors.

    `setup` says what has to be the same in both. `deference` ends when a predecessor is asked.
    `handed_over` is called with a successor's process number once all is its own, with whether connections are, too;
    our copies of sockets are closed after that.
    """

    def __init__(
        self,
        path: Path | None,
        forwarder: AnyForwarder,
        families: Sequence[FamilyProxy],
        sockets: NamedSockets,
        setup: Callable[[], str],
        handed_over: Callable[[int, bool], None],
        *,
        wanted: bool,
        drains: Drains | None = None,
        deference: Deference | None = None,
    ) -> None:
        self._path = path
        self._forwarder = forwarder
        self._families = families
        self._sockets = sockets
        self._setup = setup
        release()  # not when a predecessor or a successor waits for it
        self._drains = drains
        self._deference = deference or Deference()
        self._handed_over = handed_over
        self._turn = asyncio.Lock()
        self._stopping = False
        self._is_handing_over = False
        self._unsettled: set[IPFamily] = set()
        self._failure: TakeOverError | None = None
        """Why nothing is to be done any more: another family waits for its turn as this process ends."""
        self.is_pending = sockets.are_awaited = wanted
        """Whether a predecessor is still to be asked."""

    # As a successor.

    async def until_turn(self) -> None:
        """Return once it is our turn to serve: at once, or when the predecessor has handed over. Raises TakeOverError.

        To be called when it is known what to serve.
        """
        async with self._turn:
            if self._failure is not None:
                raise self._failure
            if self.is_pending:
                try:
                    await self._take_over()
                except TakeOverError as error:
                    self._failure = error
                    raise
                self.is_pending = self._sockets.are_awaited = False

    def settled(self, family: IPFamily) -> None:
        """The rules of a family stand: what it has not asked for by now was the predecessor's alone."""
        if family in self._unsettled:
            self._unsettled.discard(family)
            self._forwarder.close_unasked(family)
            for proxy in self._families:
                if proxy.family is family:
                    proxy.holdings.release_unasked()
            if not self._unsettled:
                # Servers ask every tenth of a second. Without a copy of ours clients would be refused until then.
                asyncio.get_running_loop().call_later(_SERVERS_ASK_SECONDS, self._close_inherited)

    async def _take_over(self) -> None:
        # With 10,000 Services that takes a second, in which clients would have to wait for their turns otherwise.
        for family in self._families:
            await family.until_taken_in()
        if self._path is not None and takeover_path(self._path).exists():
            await self._until_ready()  # once connected the predecessor waits for us, and gives up after some seconds
        self._defer_no_more()
        connection = await self._connection()
        self._start_processes()  # a predecessor that has come just now gives up in some seconds
        if connection is None:
            log.info("Nobody to take over from: starting as usual", path=str(self._path))
            return
        await self._until_ready()
        heir = Heir(
            version=__version__,
            setup=self._setup(),
            taker=self._forwarder.take_over,
            listener=self._inherit,
            socket=self._adopt,
            serves=self._serves,
            alone=self._alone,
            backlog_seconds=BACKLOG_SECONDS if isinstance(self._forwarder, Forwarder) else 0.0,
        )
        try:
            everything = await Successor(connection, heir).take_over()
        except CannotServeError as error:
            raise TakeOverError(f"--takeover: {error}") from error
        except RefusedError as error:
            log.warning("Nothing is taken over: starting as usual", reason=str(error))
            return
        except NotTakenOverError as error:
            self._forwarder.forsake()
            raise TakeOverError(f"--takeover: the predecessor serves on: {error}") from error
        if everything:
            for family in self._families:
                family.took_over()
        asyncio.get_running_loop().call_later(_UNASKED_SECONDS, self._all_settled)
        log.info(
            "Taken over" if everything else "Listeners taken over",
            connections=self._forwarder.active,
            udp_flows=self._forwarder.flows,
        )

    async def _until_ready(self) -> None:
        if isinstance(self._forwarder, ProcessForwarder):
            with _starting_processes():
                await self._forwarder.ready()

    def _start_processes(self) -> None:
        if isinstance(self._forwarder, ProcessForwarder):
            with _starting_processes():
                self._forwarder.start()

    async def _connection(self) -> socket.socket | None:
        if self._path is None:
            return None
        loop = asyncio.get_running_loop()
        end = loop.time() + _TRY_SECONDS
        while True:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
            try:
                made.connect(os.fspath(takeover_path(self._path)))
            except OSError:
                made.close()
                if loop.time() >= end:
                    return None
                await asyncio.sleep(_TRY_EVERY)
            else:
                if may_ask(made):
                    return made
                made.close()
                raise TakeOverError(f"--takeover: another user's process listens at {takeover_path(self._path)}")

    def _inherit(self, each: PlainListener, descriptor: int) -> None:
        port = ServicePortName(each.namespace, each.service, each.port_name, Protocol(each.protocol))
        name = ListenerName(port, IPFamily(each.family), TrafficClass(each.traffic))
        self._forwarder.inherit(name, each.host, descriptor)

    def _defer_no_more(self) -> None:
        processes = self._forwarder.process_ids if isinstance(self._forwarder, ProcessForwarder) else ()
        self._deference.end(processes)

    def _serves(self) -> None:
        self._unsettled = {proxy.family for proxy in self._families}
        self._forwarder.shares_sockets = True
        self._forwarder.went_on()
        if isinstance(self._forwarder, Forwarder):
            serve_traffic()
        if self._drains is not None:
            self._drains.go_on()

    def _alone(self) -> None:
        self._forwarder.shares_sockets = False

    def _all_settled(self) -> None:
        """Wait no longer for families that do not serve, unless what they could have asked for is being handed on."""
        if self._is_handing_over:
            asyncio.get_running_loop().call_later(_LISTEN_AGAIN_SECONDS, self._all_settled)
        elif not self._sockets.are_given:
            for family in list(self._unsettled):
                self.settled(family)
            self._sockets.close_inherited()

    def _close_inherited(self) -> None:
        """Close what nobody has asked for, in a thread: with the last copy of a socket the kernel removes its table."""
        asyncio.get_running_loop().run_in_executor(None, self._sockets.close_inherited)

    def _adopt(self, name: str, descriptor: int) -> None:
        kind, _, rest = name.partition(" ")
        proxies = {proxy.family: proxy for proxy in self._families}
        if kind == "lease" and rest in proxies:
            proxies[IPFamily(rest)].holdings.adopt_lease(descriptor)
        elif kind == "claim" and (family := rest.split(" ")[0]) in proxies:
            _, protocol, port, ip = rest.split(" ")
            proxies[IPFamily(family)].holdings.adopt_claim(ip, Protocol(protocol), int(port), descriptor)
        elif name == DRAINS and self._drains is not None:
            self._drains.adopt(descriptor)
        else:
            self._sockets.inherit(name, descriptor)

    # As a predecessor.

    def tasks(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What listens for successors, by the name of its task; nothing without a place for the socket."""
        return {} if self._path is None else {"takeover": self._listen(takeover_path(self._path))}

    def stop(self) -> None:
        """Hand nothing over any more: this process ends."""
        self._stopping = True

    async def _listen(self, path: Path) -> None:
        await self._settled()
        listening = await self._socket(path)
        try:
            while not self._sockets.are_given:
                try:
                    connection, _ = await asyncio.get_running_loop().sock_accept(listening.socket)
                except OSError:  # no descriptor or memory is left
                    await asyncio.sleep(_LISTEN_AGAIN_SECONDS)
                    continue
                if may_ask(connection):
                    await self._hand_over(connection)
                else:
                    connection.close()
        finally:
            listening.close()

    async def _settled(self) -> None:
        """Wait until we are no successor any more: until then we have nothing to hand over."""
        while self.is_pending or not any(proxy.settled for proxy in self._families):  # noqa: ASYNC110
            await asyncio.sleep(_LISTEN_AGAIN_SECONDS)

    async def _socket(self, path: Path) -> AdminSocket:
        complained = False
        while True:
            try:
                return AdminSocket(path, self._sockets, socket.SOCK_SEQPACKET)
            except SocketUnavailableError as error:
                if not complained and not isinstance(error, SocketTakenError):
                    log.warning(
                        "No successor can take over: its socket cannot be made", path=str(path), reason=str(error)
                    )
                    complained = True
                await asyncio.sleep(_LISTEN_AGAIN_SECONDS)

    async def _hand_over(self, connection: socket.socket) -> None:
        process = process_of(connection)

        def given(everything: bool) -> None:  # noqa: FBT001 -- as the predecessor calls it
            self._sockets.are_given = True
            self._handed_over(process, everything)
            if everything:
                self._forwarder.forsake()
            else:
                self._forwarder.leave_listeners()
            for proxy in self._families:
                proxy.leave_to_successor()

        predecessor = Predecessor(
            connection,
            Possessions(
                version=__version__,
                setup=self._setup(),
                reluctance=self._reluctance,
                held=self._held,
                giver=self._giver,
                listeners=self._listeners,
                sockets=self._named,
                given=given,
            ),
        )
        self._is_handing_over = True
        try:
            await predecessor.hand_over()
        finally:
            self._is_handing_over = False

    def _giver(self) -> GivesPackages:
        if isinstance(self._forwarder, Forwarder):
            return LocalPackages(self._forwarder.hand_over())
        return self._forwarder.hand_over()

    def _reluctance(self) -> str:
        return "it is stopping" if self._stopping else ""

    @asynccontextmanager
    async def _held(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for proxy in self._families:
                await stack.enter_async_context(proxy.held())
            yield

    def _listeners(self) -> list[tuple[PlainListener, int]]:
        return [
            (
                PlainListener(
                    name.service_port.namespace,
                    name.service_port.name,
                    name.service_port.port,
                    name.service_port.protocol,
                    name.family,
                    name.traffic,
                    host,
                ),
                descriptor,
            )
            for name, host, descriptor in self._forwarder.listening()
        ]

    def _named(self) -> dict[str, int]:
        found = {name: listening.fileno() for name, listening in self._sockets.open_ones().items()}
        for proxy in self._families:
            found |= proxy.holdings.sockets()
        if self._drains is not None:
            found[DRAINS] = self._drains.descriptor()
        return found


@contextmanager
def _starting_processes() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TakeOverError(f"--takeover: data processes cannot be started: {error.strerror}") from error
