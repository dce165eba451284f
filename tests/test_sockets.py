"""Sockets of ours share a port, and nobody else has it."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from userproxy.sockets import NamedSockets, sharing_their_port

LOOPBACK = "127.0.0.1"
Sockets = list[socket.socket]


@pytest.fixture(params=[socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["TCP", "UDP"])
def sockets(request: pytest.FixtureRequest) -> Iterator[Sockets]:
    """Three, of which the first is bound."""
    with ExitStack() as stack:
        made = [stack.enter_context(socket.socket(type=request.param)) for _ in range(3)]
        made[0].bind((LOOPBACK, 0))
        yield made


def test_a_port_is_shared_by_those_who_say_so_for_as_long_as_they_do(sockets: Sockets) -> None:
    holder, sibling, thief = sockets
    with sharing_their_port(holder, sibling):
        sibling.bind(holder.getsockname())
    assert sibling.getsockname() == holder.getsockname()
    thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with pytest.raises(OSError, match="in use"):
        thief.bind(holder.getsockname())


def test_a_bind_that_fails_leaves_nothing_shared(sockets: Sockets) -> None:
    holder, sibling, _ = sockets
    with pytest.raises(OSError, match="assign"), sharing_their_port(holder, sibling):
        sibling.bind(("192.0.2.1", holder.getsockname()[1]))
    assert [each.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) for each in (holder, sibling)] == [0, 0]


def test_one_may_be_closed_meanwhile(sockets: Sockets) -> None:
    holder, sibling, _ = sockets
    with sharing_their_port(holder, sibling):
        sibling.bind(holder.getsockname())
        holder.close()
    assert sibling.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0


def test_named_sockets_go_to_whoever_asks_for_them_and_the_rest_is_closed() -> None:
    sockets = NamedSockets()
    with socket.socket() as one, socket.socket() as other:
        for name, each in (("one", one), ("other", other)):
            each.bind((LOOPBACK, 0))
            sockets.inherit(name, os.dup(each.fileno()))
        taken = sockets.take("one")
        assert taken is not None
        with taken:
            assert taken.getsockname() == one.getsockname()
            assert sockets.take("one") is None
            assert list(sockets.open_ones()) == ["one"]
        assert not sockets.open_ones()
        port = other.getsockname()
        sockets.close_inherited()
    with socket.socket() as again:
        again.bind(port)
