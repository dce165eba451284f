"""Parts of the kernel's packet filter that some kernels lack, and what the rules are without them. Pure."""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from msgspec import Struct, structs

from userproxy.portals.rules import JumpRule, Rule

_REFUSE: Final = "-j REJECT"
_DROP: Final = "-j DROP"


class Feature(Struct, frozen=True):
    """A match or target: text that rules with it contain, one such rule of the filter table, and the cost of its lack.

    `modules` are those of the kernel that have it, `loss` is what does not work without them.
    """

    mark: str
    example: str
    modules: str
    loss: str


REJECT = Feature(
    _REFUSE,
    "-p tcp -j REJECT --reject-with tcp-reset",
    "ipt_REJECT, ip6t_REJECT",
    "clients of Services that have no endpoints get no answer instead of a refusal",
)
ADDRTYPE = Feature(
    "-m addrtype",
    "-m addrtype --dst-type LOCAL -j ACCEPT",
    "xt_addrtype",
    "node ports are not served, nor external IPs from the node itself, and UDP listeners are open beside their portals",
)
PHYSDEV = Feature(
    "-m physdev",
    "-m physdev ! --physdev-is-in -j ACCEPT",
    "xt_physdev",
    "external IPs that are not the node's own are not served",
)

FEATURES: Final = (REJECT, ADDRTYPE, PHYSDEV)


def adapted(rules: Iterable[Rule], missing: Collection[Feature]) -> tuple[Rule, ...]:
    """The rules that a kernel without `missing` takes. What would be refused is dropped, rather than let past."""
    silent = (_silenced(rule) if REJECT in missing else rule for rule in rules)
    return tuple(rule for rule in silent if not any(feature.mark in rule.spec for feature in missing))


def _silenced(rule: Rule) -> Rule:
    before, refuses, _ = rule.spec.partition(_REFUSE)
    return structs.replace(rule, spec=f"{before}{_DROP}") if refuses else rule


def adapted_jumps(jumps: Sequence[JumpRule], missing: Collection[Feature]) -> tuple[JumpRule, ...]:
    """The jumps that a kernel without `missing` takes."""
    return tuple(jump for jump in jumps if not any(feature.mark in jump.rule.spec for feature in missing))
