"""Datagrams that wait in sockets which had all clients, and are now some clients' only."""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from userproxy.forwarding.udp.datagrams import BATCH, Inbox, receive_batch
from userproxy.forwarding.udp.sockets import DatagramSocket

_MOST: Final = 4096
"""Of one socket: more than its buffer has room for (1 MiB twice, 768 bytes for the smallest), so that an end comes
though new ones come meanwhile."""


class Waiting(NamedTuple):
    """One, with its client; `addresses` and `payload` as :meth:`Inbox.put` takes them."""

    client: tuple[str, int]
    addresses: bytes
    payload: bytes


def waiting(sockets: Iterable[DatagramSocket], inbox: Inbox) -> Iterator[Waiting]:
    """Take out what is there, in the order in which it came to each socket."""
    for sock in sockets:
        for _ in range(_MOST // BATCH):
            count: int = receive_batch(sock.fileno(), inbox.headers, BATCH, 0, None)
            for number in range(max(0, count)):
                yield Waiting(inbox.address(number), *inbox.datagram(number))
            if count < BATCH:
                break
