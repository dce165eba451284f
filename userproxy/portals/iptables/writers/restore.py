"""What the writers of rules have in common, and the one for both variants and changes of any size: iptables-restore."""

import re
from collections.abc import Sequence
from typing import Protocol

from userproxy.errors import KernelToolError
from userproxy.portals.iptables.changes import Change, Edit, restore_text
from userproxy.portals.iptables.parser import parse_rule
from userproxy.portals.iptables.variant import Tools
from userproxy.portals.programs import complaint, run_program

LOCK_SECONDS = 5
"""How long a writer waits for iptables' lock, as kube-proxy does (``-w 5``)."""

MOST_EDITS = 8
"""Edits up to which libiptc is taken: what one service port with every kind of portal needs.

Measured in milliseconds for 1, 4, 16 and 64 edits, libiptc against one run of iptables-restore: in a
table of 20 rules 0.8, 2.9, 12, 46 against 2 to 4; of 2,000 rules 7, 7, 13, 60 against 9 to 13; of 20,000
rules 62, 65, 78, 105 against 90 to 120.
"""

_BASICS = frozenset({"-d", "-p"})
_MATCHES = frozenset({"comment", "tcp", "udp", "sctp", "addrtype", "state"})
# With a target that it does not know by name, python-iptables opens every table, which creates them.
_TARGETS = frozenset({"REDIRECT", "DNAT", "ACCEPT"})
_LINE = re.compile(r"\bline:? (\d{1,9})\b", re.ASCII)


class ConflictError(KernelToolError):
    """The change was refused; if another program changed the tables meanwhile, a new one may be taken.

    `culprits` are the edits that the program complained of, as far as it said so.
    """

    def __init__(self, text: str, culprits: Sequence[Edit] = ()) -> None:
        super().__init__(text)
        self.culprits = tuple(culprits)


class Writer(Protocol):
    """Carries out changes. Each TableChange commits on its own, wholly or not at all."""

    def apply(self, change: Change) -> None:
        """Returns once the kernel has every part of `change`.

        Raises ConflictError where the tables may have changed since they were read, and KernelToolError
        where trying again at once is of no use. What committed before the error stays.
        """


class RestoreWriter:
    """Writes through ``iptables-restore --noflush``, which leaves alone what its input does not name."""

    def __init__(self, tools: Tools) -> None:
        # --wait-interval is not needed: from 1.8.9 on the lock is waited for without polling.
        self._command = (tools.restore, "--noflush", "--wait", str(LOCK_SECONDS))

    def apply(self, change: Change) -> None:
        text = restore_text(change)
        done = run_program(self._command, text)
        if done.returncode == 0:
            return
        if "xtables lock" in done.stderr:
            raise KernelToolError(f"the xtables lock could not be had: {complaint(done)}")
        raise ConflictError(complaint(done), _culprits(text, done.stderr))


def is_small(change: Change) -> bool:
    """Whether `change` is a few portal rules appended or deleted, which libiptc writes faster."""
    edits = [edit for block in change for edit in block.edits]
    return (
        len(edits) <= MOST_EDITS
        and not any(block.fresh or block.drop for block in change)
        and all(_is_portal_rule(edit) for edit in edits)
    )


def _is_portal_rule(edit: Edit) -> bool:
    rule = parse_rule(edit.spec)
    return (
        edit.command != "-I"
        and {option.name for option in rule.basics} <= _BASICS
        and {match.name for match in rule.matches} <= _MATCHES
        and rule.jump == "-j"
        and rule.target.name in _TARGETS
    )


def _culprits(text: str, said: str) -> list[Edit]:
    """The rules that were to be appended in the lines of `text` whose numbers were `said`."""
    lines = text.splitlines()
    found = []
    for number in map(int, _LINE.findall(said)):
        match lines[number - 1].split(" ", 2) if 0 < number <= len(lines) else ():
            case ["-A", chain, spec]:
                found.append(Edit("-A", chain, spec))
    return found
