"""UDP listeners of data processes, on copies of sockets."""

import asyncio
import os
import re
import socket
from contextlib import closing
from pathlib import Path
from random import Random

from tests.forwarding.conftest import LOOPBACK
from userproxy.forwarding.accept_turns import AcceptTurns, open_tally
from userproxy.forwarding.assembly.options import ForwardingOptions
from userproxy.forwarding.ports.ranges import PortRange
from userproxy.forwarding.sharing import SharingForwarder
from userproxy.forwarding.udp.shared import SharedUdpListener
from userproxy.model import Endpoint, IPFamily, ListenerName, Protocol, ServicePortName, Snapshot, Verdict

NAME = ListenerName(ServicePortName("default", "dns", "", Protocol.UDP))


def watched(forwarder: SharingForwarder) -> list[str]:
    """The descriptors that the kernel watches for the listeners, once for each file that it does so for."""
    described = Path(f"/proc/self/fdinfo/{forwarder._udp.poller._epoll.fileno()}").read_text()
    return re.findall(r"^tfd: +(\d+)", described, re.MULTILINE)


async def test_a_socket_that_another_process_reads_from_now_on_wakes_this_one_no_more() -> None:
    tally = open_tally()
    options = ForwardingOptions({IPFamily.IPV4: LOOPBACK}, PortRange(), False, 60.0, 10_000)
    one, other = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    with closing(AcceptTurns(tally, 1, 0)) as turns, one, other:
        os.close(tally)
        for each in (one, other):
            each.bind((LOOPBACK, 0))
        forwarder = SharingForwarder(asyncio.get_running_loop(), options, Random(1), turns)
        forwarder.adopt(NAME, 1, (0,), [os.dup(one.fileno())])
        forwarder.update(Snapshot(NAME, Verdict.SERVE, (Endpoint(LOOPBACK, 9),)))
        listener = forwarder.opened(NAME)
        assert isinstance(listener, SharedUdpListener)
        forwarder.adopt(NAME, 1, (1,), [os.dup(other.fileno())])
        assert os.path.sameopenfile(listener.descriptor, other.fileno())
        assert watched(forwarder) == [str(listener.descriptor)]
        forwarder.close(NAME)
        assert watched(forwarder) == [], "whoever has the number next is told of nobody else's datagrams"
        forwarder.shut_down()
