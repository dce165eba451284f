"""The smallest change that makes the rules that are there the wanted ones, as values. Pure.

A change touches only our own chains and jumps, and never addresses a rule by its number: another program may insert
one before the change is written.

Order across tables, since each table commits on its own and a later one may fail: what accepts packets
for a local port comes before the rules that lead packets there, and goes after them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

from msgspec import Struct

from userproxy.model import Differences
from userproxy.portals.iptables.chains import CHAINS, FILTER, NAT, PROBE, JumpRule, Rule, jump_rules
from userproxy.portals.iptables.parser import Chains, canonical, parse_rule

REWRITE_ABOVE = 30
"""Deletions in one chain above which it is written anew.

A deletion searches the chain: at 10,000 rules 100 of them take iptables-nft-restore 0.94 s, and writing
the whole chain 0.28 s.
"""

KUBE_SERVICES = "KUBE-SERVICES"
"""The chain that kube-proxy's jumps go to. Its chain of node ports is reached from the end of that one."""

_FINAL = frozenset({"ACCEPT", "RETURN", "DNAT", "REDIRECT"})
"""Targets of nat after which no other rule of a chain is asked."""

Present: TypeAlias = Mapping[str, Chains]
Group: TypeAlias = Sequence[Rule]
"""The rules of one service port: inside a chain their order matters, that of groups does not."""


class Edit(Struct, frozen=True):
    """One command of iptables-restore on one rule: append, insert first or delete."""

    command: Literal["-A", "-I", "-D"]
    chain: str
    spec: str


class TableChange(Struct, frozen=True):
    """What happens to one table in one commit, in the order of the fields.

    `fresh` chains are created, or emptied where they exist; `drop` chains are deleted.
    """

    table: str
    fresh: tuple[str, ...] = ()
    edits: tuple[Edit, ...] = ()
    drop: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.fresh or self.edits or self.drop)


Change: TypeAlias = tuple[TableChange, ...]
"""Commits in their order. Empty where nothing is to do."""


class Removal(Struct, frozen=True):
    """The change that takes our rules away, and a sentence for each thing removed or left."""

    change: Change
    sentences: tuple[str, ...]


class _ChainPlan(Struct):
    chain: str
    wanted: list[str]
    missing: bool
    delete: list[str]
    append: list[str]

    @property
    def rewrite(self) -> bool:
        return len(self.delete) > REWRITE_ABOVE


def difference(
    present: Present, groups: Iterable[Group], *, jumps: Sequence[JumpRule] | None = None, shared: bool = False
) -> Change:
    """The change after which our chains hold exactly the rules of `groups`, and each jump stands once.

    All jumps of nat come before a rule there that takes every packet. Unless the node is `shared` with a kube-proxy
    that serves other Services, they come before kube-proxy's jump, too: its rules for node ports would win for as long
    as they stand, whoever left them behind. `jumps` are all, or those that the kernel takes.
    """
    jumps = jump_rules() if jumps is None else jumps
    wanted = _by_chain(groups)
    nat = _plans(NAT, present, wanted)
    filters = _plans(FILTER, present, wanted)
    changes = (
        TableChange(
            FILTER, _missing(filters), (*_additions(filters), *_jump_edits(FILTER, present, jumps, shared=True))
        ),
        TableChange(
            NAT,
            (*_missing(nat), *_rewritten(nat)),
            (
                *_reductions(nat),
                *_additions(p for p in nat if not p.rewrite),
                *_jump_edits(NAT, present, jumps, shared=shared),
            ),
        ),
        TableChange(FILTER, _rewritten(filters), _reductions(filters)),
    )
    return tuple(change for change in changes if change)


def differences(
    present: Present, groups: Iterable[Group], *, jumps: Sequence[JumpRule], shared: bool = False
) -> Differences:
    """What :func:`difference` would write and delete, as ``iptables-save`` prints rules. A rule that is to stand
    elsewhere in its chain is among both."""
    wanted = _by_chain(groups)
    missing: list[str] = []
    left_over: list[str] = []
    for table in CHAINS:
        edits = list(_jump_edits(table, present, jumps, shared=shared or table == FILTER))
        for plan in _plans(table, present, wanted):
            missing += [f"{table}: chain {plan.chain}"] if plan.missing else []
            edits += [Edit("-A", plan.chain, spec) for spec in plan.append]
            edits += [Edit("-D", plan.chain, spec) for spec in plan.delete]
        for edit in edits:
            (left_over if edit.command == "-D" else missing).append(f"{table}: -A {edit.chain} {edit.spec}")
    return Differences(tuple(missing), tuple(left_over))


def replacement(groups: Iterable[tuple[Group, Group]]) -> Change:
    """The change by which each second group takes the place of the first, where all else stands as it should.

    What :func:`difference` would find, at the cost of what changed.
    """
    deleted: list[Rule] = []
    appended: list[Rule] = []
    for before, after in groups:
        for chain in dict.fromkeys((rule.table, rule.chain) for rule in (*before, *after)):
            old = [rule for rule in before if (rule.table, rule.chain) == chain]
            new = [rule for rule in after if (rule.table, rule.chain) == chain]
            if old == new[: len(old)]:
                appended += new[len(old) :]
            else:
                deleted += old
                appended += new
    changes = (
        TableChange(
            FILTER, edits=tuple(Edit("-A", rule.chain, rule.spec) for rule in appended if rule.table == FILTER)
        ),
        TableChange(
            NAT,
            edits=(
                *(Edit("-D", rule.chain, rule.spec) for rule in deleted if rule.table == NAT),
                *(Edit("-A", rule.chain, rule.spec) for rule in appended if rule.table == NAT),
            ),
        ),
        TableChange(FILTER, edits=tuple(Edit("-D", rule.chain, rule.spec) for rule in deleted if rule.table == FILTER)),
    )
    return tuple(change for change in changes if change)


def appended_and_deleted(present: Present, change: Change) -> Present | None:
    """What the tables are after `change`; None where it does more than append rules and delete those that are there."""
    if any(block.fresh or block.drop or any(edit.command == "-I" for edit in block.edits) for block in change):
        return None
    return changed(present, change)


def changed(present: Present, change: Change) -> Present | None:
    """What the tables are after `change`; None where it is about chains or rules that are not there."""
    tables = {table: dict(chains) for table, chains in present.items()}
    for block in change:
        chains = tables.setdefault(block.table, {})
        chains.update({chain: [] for chain in block.fresh})
        for chain in {edit.chain for edit in block.edits}:
            chains[chain] = list(chains.get(chain, ()))
        for edit in block.edits:
            if edit.command == "-A":
                chains[edit.chain].append(edit.spec)
            elif edit.command == "-I":
                chains[edit.chain].insert(0, edit.spec)
            elif edit.spec in chains[edit.chain]:
                chains[edit.chain].remove(edit.spec)
            else:
                return None
        for chain in block.drop:
            if chains.pop(chain, None) is None:
                return None
    return tables


def removal(present: Present, where: str) -> Removal:
    """The change after which nothing of ours is left, and what to tell about it; `where` names the tables.

    A chain that somebody else's rule leads to cannot be deleted: it is emptied and stays.
    """
    changes: list[TableChange] = []
    sentences: list[str] = []
    for table in (NAT, FILTER):
        change, told = _table_removal(table, present.get(table, {}))
        changes += [change] if change else []
        sentences += [f"{where}, table {table}: {sentence}" for sentence in told]
    return Removal(tuple(changes), tuple(sentences))


def restore_text(change: Change) -> str:
    """The input of ``iptables-restore --noflush``: one block a commit (iptables-restore(8))."""
    lines: list[str] = []
    for block in change:
        lines.append(f"*{block.table}")
        lines += [f":{chain} - [0:0]" for chain in block.fresh]
        lines += [f"{edit.command} {edit.chain} {edit.spec}" for edit in block.edits]
        lines += [f"-X {chain}" for chain in block.drop]
        lines.append("COMMIT")
    return "\n".join([*lines, ""])


def _by_chain(groups: Iterable[Group]) -> dict[str, dict[str, int]]:
    """Each chain's wanted rules in order, with the number of the group that each belongs to."""
    wanted: dict[str, dict[str, int]] = {chain: {} for chains in CHAINS.values() for chain in chains}
    for number, group in enumerate(groups):
        for rule in group:
            wanted[rule.chain].setdefault(rule.spec, number)
    return wanted


def _plans(table: str, present: Present, wanted: Mapping[str, dict[str, int]]) -> list[_ChainPlan]:
    chains = present.get(table, {})
    return [_plan(chain, chains.get(chain), wanted[chain]) for chain in CHAINS[table]]


def _plan(chain: str, present: list[str] | None, wanted: dict[str, int]) -> _ChainPlan:
    """A group whose rules are not a beginning of what is wanted is deleted and appended anew."""
    order = list(wanted)
    plan = _ChainPlan(chain, order, missing=present is None, delete=[], append=[])
    if present == order:
        return plan
    standing: dict[int, list[tuple[str, str]]] = {}
    for line in present or ():
        spec = line if line in wanted else canonical(line)
        if spec in wanted:
            standing.setdefault(wanted[spec], []).append((spec, line))
        else:
            plan.delete.append(line)
    members: dict[int, list[str]] = {}
    for spec, group in wanted.items():
        members.setdefault(group, []).append(spec)
    for group, specs in members.items():
        there = standing.get(group, [])
        if [spec for spec, _ in there] == specs[: len(there)]:
            plan.append += specs[len(there) :]
        else:
            plan.delete += [line for _, line in there]
            plan.append += specs
    return plan


def _missing(plans: Iterable[_ChainPlan]) -> tuple[str, ...]:
    return tuple(plan.chain for plan in plans if plan.missing)


def _rewritten(plans: Iterable[_ChainPlan]) -> tuple[str, ...]:
    return tuple(plan.chain for plan in plans if plan.rewrite)


def _additions(plans: Iterable[_ChainPlan]) -> tuple[Edit, ...]:
    return tuple(Edit("-A", plan.chain, spec) for plan in plans for spec in plan.append)


def _reductions(plans: Iterable[_ChainPlan]) -> tuple[Edit, ...]:
    return tuple(
        Edit("-A", plan.chain, spec) if plan.rewrite else Edit("-D", plan.chain, spec)
        for plan in plans
        for spec in (plan.wanted if plan.rewrite else plan.delete)
    )


def _jump_edits(table: str, present: Present, jumps: Sequence[JumpRule], *, shared: bool) -> tuple[Edit, ...]:
    jumps = [jump for jump in jumps if jump.rule.table == table]
    edits: list[Edit] = []
    for chain in dict.fromkeys(jump.rule.chain for jump in jumps):
        rules = present.get(table, {}).get(chain, [])
        ours = [jump for jump in jumps if jump.rule.chain == chain]
        other = next((place for place, line in enumerate(rules) if _comes_after_ours(line, table, shared=shared)), None)
        edits += _chain_jump_edits(rules, ours) if other is None else _jumps_before(rules, ours, other)
    return tuple(edits)


def _jumps_before(rules: list[str], jumps: Sequence[JumpRule], other: int) -> list[Edit]:
    """All of `jumps` in their order before the rule at place `other`. One can be inserted at the top alone."""
    each = [_places(rules, jump) for jump in jumps]
    places = [place for found in each for place in found]
    if all(len(found) == 1 for found in each) and places == sorted(places) and places[-1] < other:
        return []
    chain = jumps[0].rule.chain
    deleted = [Edit("-D", chain, rules[place]) for place in places]
    return deleted + [Edit("-I", chain, jump.rule.spec) for jump in reversed(jumps)]


def _chain_jump_edits(rules: list[str], jumps: Sequence[JumpRule]) -> list[Edit]:
    places = {jump: _places(rules, jump) for jump in jumps}
    first = [place for jump in jumps if jump.first for place in places[jump]]
    appended = [place for jump in jumps if not jump.first for place in places[jump]]
    edits: list[Edit] = []
    once = all(len(places[jump]) == 1 for jump in jumps if jump.first)
    if not (once and first == sorted(first) and all(place > max(first, default=-1) for place in appended)):
        chain = jumps[0].rule.chain
        edits += [Edit("-D", chain, rules[place]) for place in first]
        edits += [Edit("-I", chain, jump.rule.spec) for jump in reversed(jumps) if jump.first]
    for jump in jumps:
        if not jump.first:
            # A deletion takes the first rule that matches, so the last one keeps its place.
            found = places[jump]
            edits += [Edit("-D", jump.rule.chain, rules[place]) for place in found[:-1]]
            edits += [] if found else [Edit("-A", jump.rule.chain, jump.rule.spec)]
    return edits


def _places(rules: Sequence[str], jump: JumpRule) -> list[int]:
    return [place for place, line in enumerate(rules) if _is_jump(line, jump)]


def _comes_after_ours(line: str, table: str, *, shared: bool) -> bool:
    """Whether our jumps have to stand before a rule: it is kube-proxy's jump, or leaves nothing to others.

    In filter such a rule is an administrator's decision, which stands.
    """
    return (not shared and _leads_to(line, KUBE_SERVICES)) or (table == NAT and _takes_everything(line))


def _takes_everything(line: str) -> bool:
    if not any(line.endswith(f"-j {target}") or f"-j {target} " in line for target in _FINAL):
        return False
    rule = parse_rule(line)
    return not rule.basics and all(match.name == "comment" for match in rule.matches) and rule.target.name in _FINAL


def _leads_to(line: str, chain: str) -> bool:
    return chain in line and parse_rule(line).target.name == chain


def _is_jump(line: str, jump: JumpRule) -> bool:
    return line == jump.rule.spec or (jump.target in line and canonical(line) == canonical(jump.rule.spec))


def _table_removal(table: str, chains: Chains) -> tuple[TableChange, list[str]]:
    edits: list[Edit] = []
    sentences: list[str] = []
    for jump in jump_rules():
        if jump.rule.table == table:
            rules = chains.get(jump.rule.chain, [])
            found = [rules[place] for place in _places(rules, jump)]
            edits += [Edit("-D", jump.rule.chain, line) for line in found]
            sentences += [f"removed the jump from {jump.rule.chain} to {jump.target}"] if found else []
    ours = [chain for chain in (*CHAINS[table], PROBE) if chain in chains]
    holders = {chain: _holder(chain, chains, edits) for chain in ours}
    held = {chain for chain, holder in holders.items() if holder}
    for chain in ours:
        content = _count(len(chains[chain]))
        sentences.append(
            f"emptied the chain {chain} of {content} and left it, because this rule leads to it: {holders[chain]}"
            if chain in held
            else f"removed the chain {chain} with {content}"
        )
    fresh = tuple(chain for chain in ours if chain not in held or chains[chain])
    drop = tuple(chain for chain in ours if chain not in held)
    if not (edits or fresh):
        return TableChange(table), []
    return TableChange(table, fresh, tuple(edits), drop), sentences


def _holder(chain: str, chains: Chains, deleted: Sequence[Edit]) -> str:
    """The first rule outside our chains, and not among `deleted`, that leads to `chain`."""
    going = {(edit.chain, edit.spec) for edit in deleted}
    ours = {name for names in CHAINS.values() for name in names}
    for name, rules in chains.items():
        for line in rules:
            if name not in ours and (name, line) not in going and _leads_to(line, chain):
                return f"-A {name} {line}"
    return ""


def _count(rules: int) -> str:
    return "1 rule" if rules == 1 else f"{rules} rules"
