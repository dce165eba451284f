"""The rules of the way back by iptables and ebtables, where the kernel's nf_tables cannot have them. Blocking.

What stands, but for the family, the mark and the networks:

    iptables -t mangle -A USERPROXY-RETURN-PATH -m socket --transparent -j MARK --set-xmark 0x1000/0x1000
    iptables -t mangle -A PREROUTING -j USERPROXY-RETURN-PATH
    ebtables -t nat -A USERPROXY-RETURN-IPV4 -p IPv4 --ip-src 10.1.0.0/24 --ip-dst 10.1.0.0/24
        --ip-proto tcp --ip-dport 61000:65535 -j redirect
    ebtables -t nat -A PREROUTING -j USERPROXY-RETURN-IPV4

``socket`` leaves out sockets that are bound to no address, and has the kernel defragment what it looks at. Fragments
that are still on a bridge have no ports for ebtables: a datagram larger than a packet, from one Pod of a bridge to
another, comes back only with br_netfilter.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from userproxy.addresses import IPFamily
from userproxy.errors import KernelToolError
from userproxy.model import OWN_PORTS
from userproxy.portals.iptables.variant import Tools, Variant, detect, installed, legacy_tables, which
from userproxy.portals.iptables.writers.restore import LOCK_SECONDS
from userproxy.portals.programs import complaint, kernel_lacks_it, run_program, save
from userproxy.portals.return_path.marks import Mark
from userproxy.portals.return_path.rules import PodBridge

CHAIN: Final = "USERPROXY-RETURN-PATH"
_JUMP: Final = f"-A PREROUTING -j {CHAIN}"
_TABLE: Final = "mangle"
_EBTABLES: Final = ("ebtables-legacy", "ebtables")
_OPTIONS: Final = {IPFamily.IPV4: "ip", IPFamily.IPV6: "ip6"}


class XtablesRules:
    """Those of one address family, in the network namespace of the calling thread."""

    name = "iptables"
    announced = False

    def __init__(self, family: IPFamily) -> None:
        self._family = family
        self._tools: Tools | None = None
        self._mark: Mark | None = None
        self._bridges = BridgeRules(family)

    def write(self, mark: Mark, bridges: Sequence[PodBridge]) -> str:
        """Have all of it stand; returns why answers within `bridges` do not rise, empty if they do.

        Raises KernelToolError where packets cannot be marked at all.
        """
        self._tools, self._mark = self._tools or detect(self._family), mark
        listed = _listed(self._tools)
        text = marking_text(mark, listed)
        if text:
            _restore(self._tools, text)
        try:
            self._bridges.write(bridges)
        except KernelToolError as error:
            return f"ebtables: {error}" if bridges else ""
        return ""

    def stands(self) -> bool:
        """Whether what was written last is still there. Raises KernelToolError."""
        if self._tools is None or self._mark is None:
            return True
        return not marking_text(self._mark, _listed(self._tools)) and self._bridges.stand()

    def close(self) -> None:
        """Nothing belongs to this process alone."""


class BridgeRules:
    """Those of ebtables, of one address family."""

    def __init__(self, family: IPFamily) -> None:
        self._family = family
        self._chain = bridge_chain(family)
        self._written: tuple[str, ...] = ()
        self._listed = ""

    def write(self, bridges: Sequence[PodBridge]) -> None:
        """Have bridges give answers to this host; none of them any more where there are none. Raises KernelToolError.

        The chain is emptied first, for some milliseconds. ebtables prints rules in other words than it takes, so those
        are there that it printed after they were written.
        """
        wanted = tuple(bridge_rules(self._family, bridges))
        program = ebtables()
        if program is None:
            if not wanted:
                return
            raise KernelToolError("the program is not installed (package ebtables, or Debian's iptables)")
        if wanted == self._written and self.stand():
            return
        remove_bridge_rules(self._family)
        if wanted:
            _run(program, "-N", self._chain, "-P", "RETURN")
            for rule in wanted:
                _run(program, "-A", self._chain, *rule.split())
            _run(program, "-A", "PREROUTING", "-j", self._chain)
        self._written, self._listed = wanted, _ebtables_chain(program, self._chain) or ""

    def stand(self) -> bool:
        """Whether what was written last is still there. Raises KernelToolError."""
        program = ebtables()
        return program is None or self._listed == (_ebtables_chain(program, self._chain) or "")


def marking_text(mark: Mark, listed: Sequence[str]) -> str:
    """What iptables-restore has to do where iptables-save has `listed` these lines; empty for nothing. Pure."""
    rule = f"-A {CHAIN} -m socket --transparent -j MARK --set-xmark {mark}"
    jumps = listed.count(_JUMP)
    if jumps == 1 and [line for line in listed if line.startswith(f"-A {CHAIN} ")] == [rule]:
        return ""
    jump = [_JUMP] if not jumps else []
    return "\n".join((f"*{_TABLE}", f":{CHAIN} - [0:0]", rule, *jump, "COMMIT", ""))


def removal_text(listed: Sequence[str]) -> str:
    """What iptables-restore has to do so that nothing is left of what iptables-save has `listed`. Pure."""
    if not any(line.startswith(f":{CHAIN} ") for line in listed):
        return ""
    jumps = [f"-D{line.removeprefix('-A')}" for line in listed if line == _JUMP]
    return "\n".join((f"*{_TABLE}", *jumps, f"-F {CHAIN}", f"-X {CHAIN}", "COMMIT", ""))


def bridge_rules(family: IPFamily, bridges: Sequence[PodBridge]) -> Iterator[str]:
    """The rules of ebtables for these bridges. Pure."""
    option = _OPTIONS[family]
    ports = ":".join(map(str, OWN_PORTS))
    for network in sorted({bridge.network for bridge in bridges}):
        for protocol in ("tcp", "udp"):
            yield (
                f"-p {family} --{option}-src {network} --{option}-dst {network}"
                f" --{option}-proto {protocol} --{option}-dport {ports} -j redirect"
            )


def bridge_chain(family: IPFamily) -> str:
    """The name of a family's chain: ebtables has one table for both."""
    return f"USERPROXY-RETURN-{family.upper()}"


def remove(family: IPFamily) -> list[str]:
    """Remove the rules of a family from both variants of iptables, and from ebtables; says of each what it was.

    Raises KernelToolError.
    """
    said = []
    try:
        found = installed(family)
    except KernelToolError:
        found = ()
    for tools in found:
        if text := removal_text(_listed_if_any(tools)):
            _restore(tools, text)
            said.append(f"{tools.label}: removed the chain {CHAIN} of mangle")
    if remove_bridge_rules(family):
        said.append(f"ebtables: removed the chain {bridge_chain(family)} of nat")
    return said


def remove_bridge_rules(family: IPFamily) -> bool:
    """Remove our chain of ebtables; whether there was one. Raises KernelToolError."""
    program, chain = ebtables(), bridge_chain(family)
    if program is None or _ebtables_chain(program, chain) is None:
        return False
    while run_program([program, "-t", "nat", "-D", "PREROUTING", "-j", chain]).returncode == 0:
        pass
    _run(program, "-F", chain)
    _run(program, "-X", chain)
    return True


def ebtables() -> str | None:
    """The path of the program; None where it is not installed."""
    return next((path for path in map(which, _EBTABLES) if path is not None), None)


def _listed(tools: Tools) -> list[str]:
    return save(tools.save, _TABLE).splitlines()


def _listed_if_any(tools: Tools) -> list[str]:
    """No lines where there is no such table. To look at a legacy one would make it."""
    if tools.variant is Variant.LEGACY and _TABLE not in legacy_tables(tools.family):
        return []
    try:
        return _listed(tools)
    except KernelToolError as error:
        if kernel_lacks_it(error):
            return []
        raise


def _restore(tools: Tools, text: str) -> None:
    done = run_program([tools.restore, "--noflush", "--wait", str(LOCK_SECONDS)], text)
    if done.returncode != 0:
        raise KernelToolError(f"{complaint(done)} (it takes the module xt_socket)")


def _ebtables_chain(program: str, chain: str) -> str | None:
    """What ebtables prints of a chain and of what leads to it; None where there is no such chain."""
    done = run_program([program, "-t", "nat", "-L", chain])
    if done.returncode != 0:
        return None
    jumps = run_program([program, "-t", "nat", "-L", "PREROUTING"]).stdout.count(f"-j {chain}")
    return f"{done.stdout}{jumps}"


def _run(program: str, *arguments: str) -> None:
    done = run_program([program, "-t", "nat", *arguments])
    if done.returncode != 0:
        raise KernelToolError(complaint(done))
