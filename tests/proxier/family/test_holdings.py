"""What a predecessor hands over, and when it gives that up."""

import asyncio
from collections.abc import Sequence
from socket import socket
from typing import cast

from tests.proxier.family.test_proxy import Bench
from userproxy.model import LocalTraffic
from userproxy.portals.return_path.keeper import ReturnPathKeeper


class WayBack:
    """What a family asks of the way back, in its order."""

    def __init__(self, owner: socket) -> None:
        self.owner = owner
        self.asked: list[str] = []

    def follow(self, _traffic: LocalTraffic, _addresses: Sequence[str]) -> None:
        self.asked.append("follow")

    def retire(self) -> None:
        self.asked.append("retire")

    async def stand(self) -> None:
        self.asked.append("stand")


def test_what_owns_the_way_back_is_handed_over_with_the_lease() -> None:
    async def scenario() -> None:
        with socket() as owner:
            way_back = WayBack(owner)
            family = Bench().proxy(return_path=cast("ReturnPathKeeper", way_back))
            assert family.holdings.sockets() == {"return path IPv4": owner.fileno()}
            family.leave_to_successor()
            assert way_back.asked == ["follow", "retire"]

    asyncio.run(scenario())
