"""A data plane on its way from one process to another: encoded values, with descriptors."""

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from msgspec import Raw

from userproxy.forwarding.handover.giving import Given, Giver
from userproxy.forwarding.handover.taking import HandoverError
from userproxy.forwarding.handover.values import Item
from userproxy.pace import Pace, UnhurriedPace
from userproxy.processes.channel import Decoder, encode
from userproxy.processes.takeover.token import Token

_BATCH: Final = 128
"""Values in one package; each has six descriptors at most."""

_FULL: Final = 48
"""Descriptors of a package that needs no second message of the channel, whatever its last value has."""

_MAKING: Final = 0.6
"""The part of a slice that values are made and encoded in. To send them takes the rest."""

_ITEMS: Final[Decoder[list[Item]]] = Decoder(list[Item])


class GivenUpError(Exception):
    """The successor cannot take over. The text is a clause that says why."""


class Package(NamedTuple):
    """A list of :data:`Item`, encoded, and the descriptors of all of them, of the process `plane` of the predecessor's.

    The descriptors are to be passed on before another package is asked for.
    """

    items: Raw
    descriptors: Sequence[int]
    plane: int = 0


class GivesPackages(Protocol):
    """Hands a data plane over. Raises GivenUpError."""

    def first(self) -> AsyncGenerator[Package, None]:
        """What is there, while it goes on."""

    def changed(self) -> AsyncGenerator[Package, None]:
        """What has changed since then, while it goes on; may be asked for again."""

    def rest(self, token: Token, end: float) -> Generator[Package, None, None]:
        """What has changed since then, until `end` on the monotonic clock; nothing goes on afterwards.

        `token` says who does, if that cannot be told.
        """

    def cancel(self, *, lingers: bool) -> None:
        """It has come to nothing. The other process may `linger`, as :meth:`Giver.cancel` has it."""


class LocalPackages:
    """Hands over the data plane of this process."""

    def __init__(self, giver: Giver) -> None:
        self._giver = giver

    async def first(self) -> AsyncGenerator[Package, None]:
        """See :class:`GivesPackages`."""
        async for package in packed_in_slices(self._giver.beginning(), UnhurriedPace(_MAKING)):
            yield package

    async def changed(self) -> AsyncGenerator[Package, None]:
        """See :class:`GivesPackages`."""
        async for package in packed_in_slices(self._giver.changes(), Pace(_MAKING)):
            yield package

    def rest(self, _token: Token, _end: float) -> Generator[Package, None, None]:
        """See :class:`GivesPackages`."""
        yield from packed(self._giver.rest())

    def cancel(self, *, lingers: bool) -> None:
        """See :class:`GivesPackages`."""
        self._giver.cancel(lingers=lingers)


def packed(given: Iterator[Given]) -> Iterator[Package]:
    """Values in as few packages as may be, at least one."""
    items: list[Item] = []
    descriptors: list[int] = []
    for item, its in given:
        items.append(item)
        descriptors += its
        if len(items) == _BATCH:
            yield Package(Raw(encode(items)), descriptors)
            items, descriptors = [], []
    yield Package(Raw(encode(items)), descriptors)


async def packed_in_slices(given: Iterator[Given | None], pace: Pace) -> AsyncGenerator[Package, None]:
    """What comes in one slice in one package, which is to be passed on before others have their turn.

    A turn of the loop later the descriptors' numbers may be other sockets'.
    """
    items: list[Raw] = []
    descriptors: list[int] = []
    for each in given:
        if each is not None:
            items.append(Raw(encode(each[0])))
            descriptors += each[1]
        if pace.is_over or len(items) == _BATCH or len(descriptors) >= _FULL:
            if items:
                yield Package(Raw(encode(items)), descriptors)
                items, descriptors = [], []
            await pace.keep()
    if items:
        yield Package(Raw(encode(items)), descriptors)


async def packed_slowly(given: AsyncIterator[Given]) -> AsyncGenerator[Package, None]:
    """As :func:`packed`, of what comes while others have their turns: descriptors are passed on at once."""
    items: list[Item] = []
    async for item, descriptors in given:
        if descriptors:  # a turn of the loop later the numbers may be other sockets'
            yield Package(Raw(encode([*items, item])), descriptors)
            items = []
            continue
        items.append(item)
        if len(items) == _BATCH:
            yield Package(Raw(encode(items)), ())
            items = []
    if items:
        yield Package(Raw(encode(items)), ())


def unpacked(items: Raw, descriptors: list[int]) -> Iterator[Given]:
    """The values of a package, each with its descriptors, which are taken out of `descriptors`.

    Raises HandoverError where there are too few, and msgspec.DecodeError.
    """
    for item in _ITEMS.decode(items):
        count = item.descriptors
        if len(descriptors) < count:
            raise HandoverError(TOO_FEW)
        its = descriptors[:count]
        del descriptors[:count]
        yield item, its


TOO_FEW: Final = "descriptors are missing: the limit of open files may be too low"
"""The channel drops them where a process has no room for them, or a broken peer did not send them."""
