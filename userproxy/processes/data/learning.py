"""What this data process finds out of answers to clients' addresses is told to the others, and theirs is known here."""

from collections.abc import Callable

from userproxy.forwarding.client_addresses import ClientAddresses
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
        for (protocol, family), pairs in addresses.pairs.items():
            pairs.learned = self._teller(protocol, family)

    def follow(self, message: FollowReturnPath) -> None:
        """Go by another path. Raises ValueError for networks that are none."""
        self._addresses.follow(message.path)
        self._numbers[message.path.family] = message.number

    def know(self, message: Learned) -> None:
        """Know what another process has found out."""
        pairs = self._addresses.pairs[message.pairs.protocol, message.pairs.family]
        for state in message.pairs.pairs:
            pairs.restore(state)

    def _teller(self, protocol: Protocol, family: IPFamily) -> Callable[[PairState], None]:
        def tell(state: PairState) -> None:
            number = self._numbers.get(family)
            if number is not None:
                self._channel().send(Learned(number, PairsHandedOver(protocol, family, (state,))))

        return tell
