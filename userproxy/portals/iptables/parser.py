"""Reads what iptables-save prints: tables, chains and rules, and whether two texts are the same rule. Pure.

Versions of iptables print one rule differently: protocol numbers, quotes, a host address without its mask, the
conntrack match for the state match. :func:`canonical` gives all of them the same text. It costs some microseconds a
rule, so callers first compare the texts as they are.
"""

import re
from collections.abc import Iterator
from ipaddress import IPv6Network
from typing import TypeAlias

from msgspec import Struct

from userproxy.addresses import is_ipv6, network_of
from userproxy.model import Protocol, ServicePortName
from userproxy.portals.iptables.chains import CHAINS, NAT

Chains: TypeAlias = dict[str, list[str]]
"""The rules of each chain, in order, each as the text after ``-A CHAIN``."""

_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')
_ESCAPED = re.compile(r"\\(.)")
_COUNTERS = re.compile(r"\[[0-9]+:[0-9]+\] ")
_PORT = re.compile(r"[0-9]{1,5}")
_BARE = re.compile(r"[A-Za-z0-9_.,:/+=\[\]-]+")
_BASIC = {
    "--source": "-s",
    "--src": "-s",
    "--destination": "-d",
    "--dst": "-d",
    "--protocol": "-p",
    "--in-interface": "-i",
    "--out-interface": "-o",
    "--fragment": "-f",
    "--jump": "-j",
    "--goto": "-g",
    "--match": "-m",
}
_PROTOCOLS = {"6": "tcp", "17": "udp", "132": "sctp"}
_BASIC_ORDER = ["-s", "-d", "-i", "-o", "-p", "-f"]


class Option(Struct, frozen=True):
    """One option of a rule with its value, empty where it has none."""

    name: str
    value: str = ""
    negated: bool = False


class Module(Struct, frozen=True):
    """A match or a target of a rule, with its options."""

    name: str
    options: tuple[Option, ...] = ()


class ParsedRule(Struct, frozen=True):
    """A rule taken apart. ``jump`` is ``-j`` or ``-g``, and empty where the rule has no target."""

    basics: tuple[Option, ...]
    matches: tuple[Module, ...]
    jump: str = ""
    target: Module = Module("")


def parse_save(text: str) -> dict[str, Chains]:
    """The chains of each table that iptables-save printed."""
    tables: dict[str, Chains] = {}
    chains: Chains = {}
    for line in text.splitlines():
        if line.startswith("["):
            line = _COUNTERS.sub("", line, count=1)
        if line.startswith("-A "):
            _, chain, *spec = line.split(" ", 2)
            chains.setdefault(chain, []).append(spec[0] if spec else "")
        elif line.startswith(":"):
            chains.setdefault(line[1:].split(" ", 1)[0], [])
        elif line.startswith("*"):
            chains = tables.setdefault(line[1:].strip(), {})
    return tables


def canonical(spec: str) -> str:
    """The text that today's iptables-save prints for the rule that `spec` describes."""
    rule = parse_rule(spec)
    parts = [_render(option) for option in rule.basics]
    for match in rule.matches:
        parts.append(f"-m {match.name}")
        parts += [_render(option) for option in match.options]
    if rule.jump:
        parts.append(f"{rule.jump} {rule.target.name}")
        parts += [_render(option) for option in rule.target.options]
    return " ".join(parts)


def parse_rule(spec: str) -> ParsedRule:
    """The parts of a rule. Matches keep their order, as in the kernel; other options are in that of iptables-save."""
    basics: dict[str, Option] = {}
    modules: list[tuple[str, str, list[Option]]] = []
    for option in _options(spec):
        if option.name in {"-m", "-j", "-g"}:
            modules.append((option.name, option.value, []))
        elif option.name in _BASIC_ORDER or not modules:
            basics[option.name] = _normal_basic(option)
        else:
            modules[-1][2].append(option)
    matches = [_normal_match(name, tuple(options)) for kind, name, options in modules if kind == "-m"]
    jump = next(((kind, Module(name, tuple(options))) for kind, name, options in modules if kind != "-m"), None)
    rank = {name: position for position, name in enumerate(_BASIC_ORDER)}
    ordered = sorted(basics.values(), key=lambda option: rank.get(option.name, len(rank)))
    return ParsedRule(tuple(ordered), tuple(matches), *(jump or ()))


def local_ports(chains: Chains) -> dict[ServicePortName, tuple[int, ...]]:
    """The local ports that the nat rules of an earlier process lead each service port to.

    Each stands once, in the order of the rules: that of the cluster IP, where it was served, is the first.
    """
    found: dict[ServicePortName, dict[int, None]] = {}
    for chain in CHAINS[NAT]:
        for spec in chains.get(chain, ()):
            name, port = _local_port(parse_rule(spec))
            if name is not None and port:
                found.setdefault(name, {})[port] = None
    return {name: tuple(ports) for name, ports in found.items()}


def _local_port(rule: ParsedRule) -> tuple[ServicePortName | None, int]:
    """The service port in the rule's comment and the port of its target; None and 0 where it has not got both."""
    comment = next((m.options[0].value for m in rule.matches if m.name == "comment" and m.options), "")
    protocol = next((option.value.upper() for option in rule.basics if option.name == "-p"), "")
    goal = next((o.value for o in rule.target.options if o.name in {"--to-ports", "--to-destination"}), "")
    namespace, _, rest = comment.partition("/")
    name, _, port_name = rest.partition(":")
    port = goal.rpartition(":")[2]
    if not name or protocol not in Protocol.__members__ or not _PORT.fullmatch(port):
        return None, 0
    return ServicePortName(namespace, name, port_name, Protocol(protocol)), int(port)


def _options(spec: str) -> Iterator[Option]:
    name, values, negated, negate_next = "", list[str](), False, False
    for quoted, bare in _TOKEN.findall(spec):
        if bare == "!":
            negate_next = True
        elif bare.startswith("-") and len(bare) > 1 and bare[1] not in "0123456789":
            if name:
                yield Option(name, " ".join(values), negated)
            name, values, negated, negate_next = _BASIC.get(bare, bare), [], negate_next, False
        else:
            values.append(bare or _ESCAPED.sub(r"\1", quoted))
    if name:
        yield Option(name, " ".join(values), negated)


def _normal_basic(option: Option) -> Option:
    value = option.value
    if option.name == "-p":
        value = _PROTOCOLS.get(value, value.lower())
    elif option.name in {"-s", "-d"} and "/" not in value:
        value = network_of(value)
    elif value.endswith("/255.255.255.255"):
        value = value.replace("/255.255.255.255", "/32")
    if option.name in {"-s", "-d"} and is_ipv6(value) and "." in value:
        value = _as_python_prints(value)
    return Option(option.name, value, option.negated)


def _as_python_prints(network: str) -> str:
    """iptables-save prints ``::192.0.2.1/128`` for the IPv6 network that Python prints as ``::c000:201/128``."""
    try:
        return str(IPv6Network(network, strict=False))
    except ValueError:
        return network


def _normal_match(name: str, options: tuple[Option, ...]) -> Module:
    if name == "conntrack" and [option.name for option in options] == ["--ctstate"] and "NAT" not in options[0].value:
        return Module("state", (Option("--state", options[0].value, options[0].negated),))
    return Module(name, options)


def _render(option: Option) -> str:
    head = f"! {option.name}" if option.negated else option.name
    if not option.value:
        return head
    if option.name == "--comment" or not _BARE.fullmatch(option.value.replace(" ", "")):
        escaped = re.sub(r'(["\\])', r"\\\1", option.value)
        return f'{head} "{escaped}"'
    return f"{head} {option.value}"
