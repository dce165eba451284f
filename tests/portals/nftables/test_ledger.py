"""Edits lead from what stood to what is wanted, whatever service ports claim."""

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from userproxy.model import Protocol, ServicePortName
from userproxy.portals.nftables.elements import Claim, Element, Slot
from userproxy.portals.nftables.ledger import Edits, Ledger

NAMES = [ServicePortName("default", name, "", Protocol.TCP) for name in ("a", "b", "c")]
SLOTS: list[Slot] = [("TCP", "10.0.0.1", port) for port in (1, 2)] + [("TCP", "", 1)]


def claim_to(slot: Slot, rank: int, value: int) -> Claim:
    """An element or two that no other slot can have."""
    key = repr(slot).encode()
    first = Element("portals", key, bytes([value]))
    return Claim(rank, (first, Element("allowed", key, b"")) if value % 2 else (first,))


@st.composite
def claims_of_one(draw: st.DrawFn) -> dict[Slot, Claim]:
    slots = draw(st.sets(st.sampled_from(SLOTS)))
    return {slot: claim_to(slot, draw(st.integers(0, 2)), draw(st.integers(0, 3))) for slot in slots}


def wanted(claims: Mapping[ServicePortName, Mapping[Slot, Claim]]) -> set[Element]:
    """Of each slot the elements of the claim with the lowest rank, and among those of the first name."""
    found: set[Element] = set()
    for slot in SLOTS:
        rivals = [(each[slot].rank, name) for name, each in claims.items() if slot in each]
        if rivals:
            found.update(claims[min(rivals)[1]][slot].elements)
    return found


@settings(deadline=None)
@given(st.lists(st.lists(st.tuples(st.sampled_from(NAMES), claims_of_one()), max_size=4), max_size=6))
def test_edits_lead_from_what_stood_to_what_is_wanted(
    syncs: list[list[tuple[ServicePortName, dict[Slot, Claim]]]],
) -> None:
    ledger = Ledger()
    claims: dict[ServicePortName, dict[Slot, Claim]] = {}
    standing: dict[tuple[str, bytes], Element] = {}
    for sync in syncs:
        for name, each in sync:
            ledger.put(name, each)
            claims[name] = each
        edits = ledger.take_edits()
        for element in edits.deleted:
            assert standing.pop((element.set, element.key)) == element
        for element in edits.added:
            assert standing.setdefault((element.set, element.key), element) is element
        assert set(standing.values()) == wanted(claims) == set(ledger)
        assert len(ledger) == len(standing)
        assert not ledger.take_edits()


def test_what_stays_is_not_edited() -> None:
    ledger = Ledger()
    ledger.put(NAMES[0], {SLOTS[0]: claim_to(SLOTS[0], 0, 1), SLOTS[1]: claim_to(SLOTS[1], 0, 0)})
    ledger.take_edits()
    ledger.put(NAMES[0], {})
    ledger.put(NAMES[0], {SLOTS[0]: claim_to(SLOTS[0], 0, 3), SLOTS[1]: claim_to(SLOTS[1], 0, 0)})
    before, after = (claim_to(SLOTS[0], 0, value).elements[0] for value in (1, 3))
    assert ledger.take_edits() == Edits((before,), (after,))
