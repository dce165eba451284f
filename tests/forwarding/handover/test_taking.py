"""What was taken over is in the order that it had, whatever order it came in."""

import asyncio
import os

from tests.forwarding.conftest import LOOPBACK, NAME, Serve, echo, eventually
from tests.forwarding.handover.conftest import a_forwarder, forwarders
from userproxy.forwarding.handover.values import RelayHandedOver
from userproxy.model import Endpoint, Snapshot, Verdict


async def test_connections_are_in_the_order_of_their_ids_before_the_end_of_what_comes(serve: Serve) -> None:
    async with forwarders() as planes:
        old, new = a_forwarder(), a_forwarder()
        planes += [old, new]
        port = old.open(NAME)
        old.update(Snapshot(NAME, Verdict.SERVE, (Endpoint(*await serve(echo)),)))
        talks = [await asyncio.open_connection(LOOPBACK, port) for _ in range(6)]
        await eventually(lambda: old.active == 6)
        giver, taker = old.hand_over(), new.take_over()
        relays = []
        async for item, descriptors in giver.first():
            copies = [os.dup(each) for each in descriptors]
            if isinstance(item, RelayHandedOver):
                relays.append((item, copies))
            else:
                taker.take(item, copies)
        for item, copies in (*relays[3:5], *relays[:3]):  # as of two processes, one after the other
            taker.take(item, copies)
        members = taker._connections[relays[0][0].owner].members
        taker.arrived()
        assert list(members) == sorted(members)
        taker.take(*relays[5])
        for item, descriptors in giver.rest():
            taker.take(item, [os.dup(each) for each in descriptors])
        taker.complete()
        assert list(members) == sorted(members)
        taker.go_on()
        new.went_on()
        old.forsake()
        for reader, writer in talks:
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            writer.close()
        await eventually(lambda: new.active == 0)
