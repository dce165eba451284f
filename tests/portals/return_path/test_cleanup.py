"""Removal of what any process has made."""

import socket
from contextlib import closing
from functools import partial

import pytest

from tests.portals.return_path.conftest import BACKEND, CLIENT, Pods, bound, transparent
from userproxy.addresses import IPFamily
from userproxy.model import LocalTraffic
from userproxy.portals.cleanup import cleanup_all
from userproxy.portals.return_path.cleanup import clean_up
from userproxy.portals.return_path.marks import DEFAULT
from userproxy.portals.return_path.standing import Standing

FAMILIES = pytest.mark.parametrize("family", IPFamily)


def state(pods: Pods) -> str:
    return pods.node.shell("sh", "-c", "nft list ruleset; ip rule; ip -6 rule; ip -6 route show table 61117; true")


def make(pods: Pods, family: IPFamily) -> None:
    assert not pods.node.run(partial(Standing(family, DEFAULT, guard=False).make, LocalTraffic(), ())).problem


def test_the_command_removes_that_of_both_families(bridged: Pods) -> None:
    before = state(bridged)
    for family in IPFamily:
        make(bridged, family)
    cleaned = bridged.node.run(cleanup_all)
    assert len([text for text in cleaned.said if "userproxy-return-path" in text or "transparent" in text]) == 6
    assert not cleaned.failed
    assert state(bridged) == before
    assert not bridged.node.run(cleanup_all).said


@FAMILIES
def test_connections_from_clients_addresses_can_be_spared(routed: Pods, family: IPFamily) -> None:
    before = state(routed)
    make(routed, family)
    with (
        closing(routed.backend.run(partial(bound, socket.SOCK_STREAM, BACKEND[family]))) as serving,
        closing(routed.node.run(partial(transparent, family, socket.SOCK_STREAM, CLIENT[family]))) as dialled,
    ):
        dialled.connect(serving.getsockname()[:2])
        cleaned = routed.node.run(partial(clean_up, family, sparing=True))
        assert cleaned.in_use == ("the way back for 1 connections from clients' addresses",)
        assert not cleaned.said
        accepted, _ = serving.accept()
        with accepted:
            accepted.sendall(b"x")
            assert dialled.recv(1) == b"x"
        dialled.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    cleaned = routed.node.run(partial(clean_up, family, sparing=True))
    assert cleaned.said
    assert not cleaned.in_use
    assert state(routed) == before
