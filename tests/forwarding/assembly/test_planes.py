"""Both planes of a process share what they are to share."""

import asyncio

from userproxy.forwarding.assembly.options import ForwardingOptions
from userproxy.forwarding.assembly.planes import Planes, make_planes
from userproxy.forwarding.limits.gates import Gates
from userproxy.forwarding.ports.ranges import PortRange
from userproxy.forwarding.udp.plane import FLOW_LIMIT


def planes(processes: int = 1) -> Planes:
    loop = asyncio.get_running_loop()
    options = ForwardingOptions(
        {}, PortRange(), portals_only=False, half_open_timeout=60.0, descriptor_limit=10_000, processes=processes
    )
    return make_planes(loop, options, Gates(loop, options.queue_timeout))


async def test_both_planes_take_from_one_budget_and_make_room_for_each_other() -> None:
    made = planes()
    assert made.tcp.budget is made.udp.budget is made.common.budget
    assert made.common.shares.flows is made.udp
    assert made.udp.make_room_elsewhere == made.common.shares.make_room_for_flow


async def test_both_planes_record_alike_know_the_same_addresses_and_the_same_waiting_clients() -> None:
    made = planes()
    for shared in ("recorder", "client_addresses", "places"):
        assert getattr(made.tcp, shared) is getattr(made.udp, shared) is getattr(made.common, shared), shared


async def test_a_process_of_four_may_have_a_quarter_of_all_flows() -> None:
    assert planes(4).udp.options.flow_limit * 4 == FLOW_LIMIT
    assert planes(1).udp.options.flow_limit == 6250, "five eighths of its descriptors, which are fewer"
