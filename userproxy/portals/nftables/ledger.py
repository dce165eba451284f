"""Which elements are wanted, for which service ports, and what has changed since somebody last asked.

Pure. A change costs what it changes, whatever the number of service ports.
"""

from collections.abc import Iterator, Mapping

from msgspec import Struct

from userproxy.model import ServicePortName
from userproxy.portals.nftables.elements import Claim, Element, Slot

_NOTHING: tuple[Element, ...] = ()


class Edits(Struct, frozen=True):
    """Elements that go, and elements that come after that. One that is changed is among both."""

    deleted: tuple[Element, ...] = ()
    added: tuple[Element, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.deleted or self.added)


class Ledger:
    """The claims of service ports to slots. A slot is a portal or a local port; one claim to it stands, others wait."""

    def __init__(self) -> None:
        self._slots: dict[ServicePortName, tuple[Slot, ...]] = {}
        self._standing: dict[Slot, tuple[ServicePortName, Claim]] = {}
        self._waiting: dict[Slot, dict[ServicePortName, Claim]] = {}
        self._before: dict[Slot, tuple[Element, ...]] = {}
        self._count = 0

    def __len__(self) -> int:
        """How many elements are wanted."""
        return self._count

    def __iter__(self) -> Iterator[Element]:
        """All elements that are wanted."""
        for _, claim in self._standing.values():
            yield from claim.elements

    def put(self, name: ServicePortName, claims: Mapping[Slot, Claim]) -> None:
        """Have these claims in place of all that the service port had; none for one that is gone."""
        for slot in self._slots.pop(name, ()):
            if slot not in claims:
                self._give_up(slot, name)
        for slot, claim in claims.items():
            self._give_up(slot, name)
            self._take(slot, name, claim)
        if claims:
            self._slots[name] = tuple(claims)

    def take_edits(self) -> Edits:
        """What has changed since the last call."""
        deleted: list[Element] = []
        added: list[Element] = []
        for slot, before in self._before.items():
            after = self._elements(slot)
            if before != after:
                deleted += [element for element in before if element not in after]
                added += [element for element in after if element not in before]
        self._before = {}
        return Edits(tuple(deleted), tuple(added))

    def _elements(self, slot: Slot) -> tuple[Element, ...]:
        standing = self._standing.get(slot)
        return _NOTHING if standing is None else standing[1].elements

    def _take(self, slot: Slot, name: ServicePortName, claim: Claim) -> None:
        holder = self._standing.get(slot)
        if holder is None:
            self._set(slot, (name, claim))
        elif (claim.rank, name) < (holder[1].rank, holder[0]):
            self._waiting.setdefault(slot, {})[holder[0]] = holder[1]
            self._set(slot, (name, claim))
        else:
            self._waiting.setdefault(slot, {})[name] = claim

    def _give_up(self, slot: Slot, name: ServicePortName) -> None:
        waiting = self._waiting.get(slot, {})
        holder = self._standing.get(slot)
        if holder is not None and holder[0] == name:
            heir = min(waiting, key=lambda each: (waiting[each].rank, each), default=None)
            self._set(slot, None if heir is None else (heir, waiting.pop(heir)))
        else:
            waiting.pop(name, None)
        if slot in self._waiting and not waiting:
            del self._waiting[slot]

    def _set(self, slot: Slot, holder: tuple[ServicePortName, Claim] | None) -> None:
        before = self._elements(slot)
        self._before.setdefault(slot, before)
        if holder is None:
            del self._standing[slot]
        else:
            self._standing[slot] = holder
        self._count += len(self._elements(slot)) - len(before)
