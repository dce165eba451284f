"""``python -m tests.portals.killed DRIVER VARIANT FAMILY``: a driver that is killed at its first write, its second, ...

To be run in a network namespace of its own. A write is a message to netlink that is no question, a line for
iptables-restore, a commit of libiptc: the process gets SIGKILL right before it, so what came before has happened. Then
another process starts with the same wish. For each a line of JSON tells what there was. Processes are forked, which is
quick and takes that this one has no threads.
"""

import asyncio
import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
import traceback
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, NoReturn

import iptc
import msgspec
import structlog
from msgspec import structs

from tests.portals.examples import EVERYWHERE, REJECT, cluster_ip_binding
from userproxy.addresses import SOCKET_FAMILIES, family_of
from userproxy.model import Admission, IPFamily, Portal, PortalAddress, PortalBinding, PortalKind
from userproxy.portals.drivers import DRIVERS
from userproxy.portals.interface import DriverOptions, PortalDriver
from userproxy.portals.iptables.tables import Tables
from userproxy.portals.iptables.variant import Tools, installed
from userproxy.portals.local.routes import LocalRoutes
from userproxy.portals.netlink import ACK
from userproxy.portals.nftables.kernel import Kernel
from userproxy.sockets import share

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_BATCH_BEGIN = 0x10  # NFNL_MSG_BATCH_BEGIN, linux/netfilter/nfnetlink.h
_Work = Callable[[PortalDriver], Coroutine[Any, Any, None]]


class Outcome(msgspec.Struct):
    """What the N-th death has left, and what the next start made of it.

    `lost` is what had stood of a service port that nobody touched, and no longer did.
    """

    killed: bool
    lost: list[str]
    missing: list[str]
    surplus: list[str]


class Wishes:
    """What is wanted at first, of the start that is killed, and of the small change after it."""

    def __init__(self, family: IPFamily) -> None:
        def port(number: int, local_port: int) -> PortalBinding:
            return cluster_ip_binding(number, local_port, family)

        refused = structs.replace(port(3, 0), internal=REJECT, external=REJECT, on_node=REJECT)
        node_port = Portal(PortalKind.NODE_PORT, "", 30080)
        many = structs.replace(port(5, 20005), portals=(*port(5, 20005).portals, node_port))
        self.first = [port(0, 20000), port(1, 20001), port(2, 20002), refused]
        self.start = [port(0, 20000), port(1, 21001), port(3, 20003), port(4, 20004)]
        self.changed, self.gone = [port(1, 22001), many], [port(4, 0).name]
        self.last = [port(0, 20000), port(1, 22001), port(3, 20003), many]


class Listeners:
    """Listens, and dies with the process."""

    def __init__(self) -> None:
        self._sockets: dict[PortalAddress, socket.socket] = {}

    def serve_portal(self, address: PortalAddress, admission: Admission) -> None:
        if address not in self._sockets:
            made = socket.socket(SOCKET_FAMILIES[family_of(address.ip)])
            share(made)
            made.bind((address.ip, address.port))
            made.listen()
            self._sockets[address] = made

    def leave_portal(self, address: PortalAddress) -> None:
        if (made := self._sockets.pop(address, None)) is not None:
            made.close()


class Node:
    """The node's kernel, changed by one process after the other."""

    def __init__(self, driver: str, variant: str, family: IPFamily) -> None:
        self._driver = DRIVERS[driver]
        self._family = family
        self._tools = _tools(family, variant) if driver == "iptables" else None

    def process(self, work: _Work, killed_at: int = 0) -> bool:
        """Have a process do `work` with a driver; whether it was killed. All that it has started has ended, too."""
        child = os.fork()
        if not child:
            self._work(work, killed_at)
        _, status = os.waitpid(child, 0)
        with suppress(ChildProcessError):
            while True:
                os.wait()
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "see the traceback above"
        return os.WIFSIGNALED(status)

    def state(self) -> set[str]:
        """What stands of ours."""
        if self._tools is not None:
            tables = Tables(self._tools).read()
            return {
                f"{table} {chain} {line}"
                for table in tables
                for chain in tables[table]
                for line in tables[table][chain]
            }
        if self._driver is DRIVERS["nftables"]:
            kernel = Kernel(self._family)
            there = kernel.read()
            elements = {f"{name} {each!r}" for name in there.sets for each in kernel.elements(name)}
            return elements | {f"{chain} {each!r}" for chain, rules in there.rules.items() for each in rules}
        return set(LocalRoutes(self._family).standing())

    def _work(self, work: _Work, killed_at: int) -> NoReturn:
        try:
            if killed_at:
                _die_at(killed_at)
            asyncio.run(self._drive(work))
        except BaseException:  # noqa: BLE001 - a forked process must not go on as its parent does
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    async def _drive(self, work: _Work) -> None:
        driver = self._driver(DriverOptions(self._family, EVERYWHERE[self._family]))
        driver.listen_with(Listeners())
        await work(driver)
        await driver.close()


def main(driver: str, variant: str, family: IPFamily) -> None:
    """Kill at one write after the other, until there are no more."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    node, wishes = Node(driver, variant, family), Wishes(family)
    kept = _marks(wishes.first[0])

    async def sync(driver: PortalDriver, bindings: Sequence[PortalBinding]) -> None:
        await driver.local_ports()
        await driver.sync(bindings)
        assert not (await driver.sync([])).differed, "it is not as it was written"

    async def begin(driver: PortalDriver) -> None:
        await sync(driver, wishes.first)

    async def work(driver: PortalDriver) -> None:
        await sync(driver, wishes.start)
        await driver.sync(wishes.changed, wishes.gone, verify=False)

    async def start_again(driver: PortalDriver) -> None:
        await sync(driver, wishes.last)

    node.process(start_again)
    wanted = node.state()
    for number in count(1):
        node.process(begin)
        before = {each for each in node.state() if any(mark in each for mark in kept)}
        assert before
        killed = node.process(work, killed_at=number)
        lost = before - node.state()
        node.process(start_again)
        after = node.state()
        outcome = Outcome(killed, sorted(lost), sorted(wanted - after), sorted(after - wanted))
        sys.stdout.write(f"{msgspec.json.encode(outcome).decode()}\n")
        if not killed:
            return


def _marks(binding: PortalBinding) -> tuple[str, ...]:
    """What shows in text that something belongs to this service port."""
    return (str(binding.name.service), binding.portals[0].ip)


def _tools(family: IPFamily, variant: str) -> Tools:
    (found,) = (tools for tools in installed(family) if tools.variant == variant)
    return found


def _changes_something(message: bytes) -> bool:
    """Whether a message to netlink, or the first of several, is no question."""
    kind, flags = struct.unpack_from("=HH", message, 4)
    return kind == _BATCH_BEGIN or bool(flags & ACK)


def _die_at(number: int) -> None:
    """Kill this process before its write of that number."""
    writes = count(1)

    def write() -> None:
        if next(writes) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    send, run = socket.socket.send, subprocess.run

    def sending(sock: socket.socket, *arguments: Any) -> int:
        if sock.family is socket.AF_NETLINK and _changes_something(arguments[0]):
            write()
        return send(sock, *arguments)

    def running(command: Sequence[str], **options: Any) -> Any:
        lines = (options.get("input") or "").splitlines(keepends=True)
        if not lines:
            return run(command, **options)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=-1, stderr=-1, text=True) as program:
            assert program.stdin is not None
            for line in lines:
                write()
                program.stdin.write(line)
                program.stdin.flush()
            write()
            output, errors = program.communicate()
        return subprocess.CompletedProcess(command, program.returncode, output, errors)

    vars_of_socket: Any = socket.socket
    vars_of_socket.send = sending
    vars_of_subprocess: Any = subprocess
    vars_of_subprocess.run = running
    commit = iptc.Table.commit

    def committing(table: iptc.Table) -> None:
        write()
        commit(table)

    iptc.Table.commit = committing


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], IPFamily(sys.argv[3]))
