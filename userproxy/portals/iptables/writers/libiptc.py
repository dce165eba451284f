"""The writer for small changes of legacy tables: python-iptables, without starting a program.

Importing this module imports python-iptables: 0.25 s and 17 MB, most of it the search for libxtables.

python-iptables takes no lock, and a commit that overlaps another program's loses that program's rules.
So iptables' own lock is held from before the table is read until it is committed.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import iptc

from userproxy.errors import KernelToolError
from userproxy.portals.iptables.changes import Change, TableChange
from userproxy.portals.iptables.parser import Module, parse_rule
from userproxy.portals.iptables.writers.restore import LOCK_SECONDS, ConflictError

_POLL = 0.02
_LOCK_FILE = "/run/xtables.lock"


class LibiptcWriter:
    """Writes changes of legacy IPv4 tables for which :func:`~userproxy.portals.writer.is_small` holds."""

    def apply(self, change: Change) -> None:
        with _xtables_lock():
            for block in change:
                try:
                    _apply(block)
                except (iptc.IPTCError, iptc.xtables.XTablesError, ValueError) as error:
                    raise ConflictError(f"libiptc refused a change of table {block.table}: {error}") from error


def _apply(block: TableChange) -> None:
    table = iptc.Table(block.table, autocommit=False)
    with closing(table):
        # The library keeps tables for ever, so this one may hold an earlier reading, or none.
        table.refresh()
        for edit in block.edits:
            chain = iptc.Chain(table, edit.chain)
            if edit.command == "-D":
                chain.delete_rule(_rule(edit.spec))
            else:
                chain.append_rule(_rule(edit.spec))
        table.commit()


def _rule(spec: str) -> iptc.Rule:
    parsed = parse_rule(spec)
    rule = iptc.Rule()
    for option in parsed.basics:
        setattr(rule, {"-d": "dst", "-p": "protocol"}[option.name], f"{'!' * option.negated}{option.value}")
    for match in parsed.matches:
        _set_options(rule.create_match(match.name), match)
    _set_options(rule.create_target(parsed.target.name), parsed.target)
    return rule


def _set_options(extension: iptc.ip4tc.IPTCModule, module: Module) -> None:
    for option in module.options:
        extension.set_parameter(option.name.removeprefix("--"), f"{'!' * option.negated}{option.value}")


@contextmanager
def _xtables_lock() -> Iterator[None]:
    path = os.environ.get("XTABLES_LOCKFILE") or _LOCK_FILE
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise KernelToolError(f"the xtables lock {path} cannot be opened: {error.strerror}") from error
    try:
        _wait_for(descriptor, path)
        yield
    finally:
        os.close(descriptor)


def _wait_for(descriptor: int, path: str) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise KernelToolError(
                    f"the xtables lock {path} is held by another program for more than {LOCK_SECONDS} s"
                ) from None
            time.sleep(_POLL)
        else:
            return
