"""What this data process finds out of answers to clients' addresses is told to the others, and theirs is known here."""

from collections.abc import Callable

from userproxy.forwarding.client_addresses import ClientAddresses
from userproxy.forwarding.handover import learned
from userproxy.forwarding.handover.values import PairsHandedOver
from userproxy.forwarding.return_pairs import PairState
from userproxy.model import IPFamily, Protocol
from userproxy.processes.channel import Channel
from userproxy.processes.messages import FollowReturnPath, Learned, ToData


class Learning:
    """Tells the control process, which tells the others: one client finds out for all processes.

    Where the clients of two processes are the first at the same time, both do.
    """

    def __init__(self, addresses: ClientAddresses, channel: Callable[[], Channel[ToData]]) -> None:
        self._addresses = addresses
        self._channel = channel
        self._numbers: dict[IPFamily, int] = {}
        self._told: dict[IPFamily, Channel[ToData]] = {}
        """Who has told of the path, and been told what is known."""
        for (protocol, family), pairs in addresses.pairs.items():
            pairs.learned = self._teller(protocol, family)

    def follow(self, message: FollowReturnPath) -> None:
        """Go by another path. Raises ValueError for networks that are none.

        A control process that adopts this one begins with that, and is told what was known before it came.
        """
        self._addresses.follow(message.path)
        family, channel = message.path.family, self._channel()
        self._numbers[family] = message.number
        if self._told.get(family) is not channel:
            self._told[family] = channel
            for found in learned.pairs(self._addresses):
                if found.family is family:
                    channel.send(Learned(message.number, found))

    def know(self, message: Learned) -> None:
        """Know what another process has found out."""
        learned.know(self._addresses, message.pairs)

    def _teller(self, protocol: Protocol, family: IPFamily) -> Callable[[PairState], None]:
        def tell(state: PairState) -> None:
            channel = self._channel()
            if self._told.get(family) is channel:
                found = PairsHandedOver(protocol, family, (state,))
                channel.send(Learned(self._numbers[family], found))

        return tell
