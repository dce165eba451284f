"""From what there is of our table to what should be: the transaction, as small as can be.

Pure.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from userproxy.portals.nftables.elements import Element
from userproxy.portals.nftables.layout import Chain, Hook, Layout, Set
from userproxy.portals.nftables.ledger import Edits
from userproxy.portals.nftables.messages import (
    Message,
    SetShape,
    create_chain,
    create_set,
    create_table,
    edit_elements,
    remove_table,
    replace_rules,
    set_shape,
    split_element,
)


class Repair(Struct, frozen=True):
    """What of the table itself has to be made or written anew."""

    anew: bool = False
    sets: tuple[Set, ...] = ()
    chains: tuple[Chain, ...] = ()
    rules: tuple[Chain, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.anew or self.sets or self.chains or self.rules)


def creation(layout: Layout) -> Repair:
    """All of it, where there is no table."""
    return Repair(sets=layout.sets, chains=layout.chains, rules=layout.chains)


def repair(
    layout: Layout,
    sets: Mapping[str, SetShape],
    chains: Mapping[str, Hook | None],
    rules: Mapping[str, Iterable[bytes]],
    listed_as: Mapping[Chain, tuple[bytes, ...]],
) -> Repair:
    """What is missing of the table, or is not as it should be.

    Where something is in the way, the table is made anew. `listed_as` is how this kernel listed the rules of a chain
    after we had written them, which need not be in the bytes in which we write them.
    """
    wanted_sets = {each.name: each for each in layout.sets}
    wanted_chains = {each.name: each for each in layout.chains}
    foreign = sets.keys() - wanted_sets.keys() or chains.keys() - wanted_chains.keys()
    other_sets = any(shape != set_shape(wanted_sets[name]) for name, shape in sets.items() if name in wanted_sets)
    other_hooks = any(hook != wanted_chains[name].hook for name, hook in chains.items() if name in wanted_chains)
    if foreign or other_sets or other_hooks:
        return Repair(anew=True, sets=layout.sets, chains=layout.chains, rules=layout.chains)
    stands = {chain.name for chain in layout.chains if _stands(chain, rules, listed_as)}
    return Repair(
        sets=tuple(each for each in layout.sets if each.name not in sets),
        chains=tuple(each for each in layout.chains if each.name not in chains),
        rules=tuple(each for each in layout.chains if each.name not in stands),
    )


def rewriting(before: Layout, after: Layout) -> Repair:
    """What turns one table into another: rules of some chains alone, since sets and chains are always the same."""
    return Repair(rules=tuple(new for old, new in zip(before.chains, after.chains, strict=True) if old != new))


def element_edits(wanted: Iterable[Element], present: Mapping[str, Iterable[bytes]]) -> Edits:
    """What is to become of the elements that there are of each set."""
    missing = {(each.set, each.body): each for each in wanted}
    strangers = [
        Element(name, *split_element(body, 0, len(body)))
        for name, bodies in present.items()
        for body in bodies
        if missing.pop((name, body), None) is None
    ]
    return Edits(tuple(strangers), tuple(missing.values()))


def transaction(layout: Layout, needed: Repair, edits: Edits) -> list[Message]:
    """The steps in their order: what is referred to comes first, and ranges go before others that overlap with them."""
    family = layout.family
    steps: list[Message] = [remove_table(family)] if needed.anew else []
    steps += [create_table(family)] if needed else []
    steps += [create_set(family, each, number) for number, each in enumerate(needed.sets, 1)]
    steps += [create_chain(family, each) for each in needed.chains]
    steps += edit_elements(family, edits)
    for chain in needed.rules:
        steps += replace_rules(family, chain, empty=chain in needed.chains)
    return steps


def _stands(chain: Chain, rules: Mapping[str, Iterable[bytes]], listed_as: Mapping[Chain, tuple[bytes, ...]]) -> bool:
    return tuple(rules.get(chain.name, ())) in (chain.rules, listed_as.get(chain))
