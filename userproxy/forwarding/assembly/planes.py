"""What connections and flows of a process have in common: the planes of TCP and UDP, and what both share."""

import asyncio
import time

from msgspec import Struct

from userproxy.forwarding.assembly.options import ForwardingOptions
from userproxy.forwarding.client_addresses import ClientAddresses
from userproxy.forwarding.descriptors import DescriptorBudget
from userproxy.forwarding.holding.places import AllPlaces
from userproxy.forwarding.limits.flows import FlowLimits
from userproxy.forwarding.limits.gates import Gates
from userproxy.forwarding.observation.recorder import Recorder
from userproxy.forwarding.poller import Poller
from userproxy.forwarding.shares import Shares
from userproxy.forwarding.tcp.plane import TcpPlane
from userproxy.forwarding.udp.plane import UdpOptions, UdpPlane, flow_limits


class Common(Struct, frozen=True):
    """What both protocols share; the poller and the gates are those of TCP alone."""

    poller: Poller
    budget: DescriptorBudget
    shares: Shares
    recorder: Recorder
    client_addresses: ClientAddresses
    gates: Gates
    places: AllPlaces


class Planes(Struct, frozen=True):
    """Both planes, and what they share."""

    common: Common
    tcp: TcpPlane
    udp: UdpPlane


def make_planes(loop: asyncio.AbstractEventLoop, options: ForwardingOptions, gates: Gates) -> Planes:
    """Both planes of a new forwarder, in which each makes room for the other. `gates` let clients in."""
    common = _common(loop, options, gates)
    tcp, udp = _tcp(loop, options, common), _udp(loop, options, common)
    common.shares.flows = udp
    udp.make_room_elsewhere = common.shares.make_room_for_flow
    return Planes(common, tcp, udp)


def _common(loop: asyncio.AbstractEventLoop, options: ForwardingOptions, gates: Gates) -> Common:
    poller = Poller(loop, clock=time.monotonic)
    budget = DescriptorBudget(loop, options.descriptor_limit, options.kept_descriptors, poller.close_now)
    return Common(
        poller,
        budget,
        Shares(budget, loop.time, options.descriptor_limit),
        # uvloop's own time has milliseconds, and a dial takes less; both are CLOCK_MONOTONIC.
        Recorder(time.monotonic),
        ClientAddresses(options.node_name),
        gates,
        AllPlaces(gates.column, options.processes),
    )


def _tcp(loop: asyncio.AbstractEventLoop, options: ForwardingOptions, common: Common) -> TcpPlane:
    return TcpPlane(
        loop,
        common.poller,
        common.budget,
        common.shares,
        options.half_open_timeout,
        common.recorder,
        common.client_addresses,
        options.trusted_proxies,
        common.gates,
        common.places,
        options.processes,
    )


def _udp(loop: asyncio.AbstractEventLoop, options: ForwardingOptions, common: Common) -> UdpPlane:
    limit, limit_per_listener = flow_limits(options.descriptor_limit, options.processes)
    return UdpPlane(
        loop,
        common.budget,
        UdpOptions(limit, limit_per_listener, options.udp_timeout),
        common.recorder,
        common.client_addresses,
        common.places,
        FlowLimits(common.gates.column, options.processes),
    )
