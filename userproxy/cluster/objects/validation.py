"""Checks of single fields of Kubernetes objects: each gives the canonical value, or one sentence about what is wrong.

The rules are those of the API server's own validation: what `kubectl apply` refuses is refused here, too.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import ParamSpec, TypeVar

from userproxy.addresses import family_of, is_ipv6
from userproxy.errors import ObjectError
from userproxy.model import IPFamily, Protocol

P = ParamSpec("P")
T = TypeVar("T")

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_CIDR = re.compile(r"[0-9a-fA-F.:]+/[0-9]{1,3}")
_TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})")
_LEADING_ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")
_OCTET = r"(?:1\d\d|2[0-4]\d|25[0-5]|[1-9]?\d)"
_ORDINARY_IPV4 = re.compile(rf"(?:1\d\d|2[01]\d|22[0-3]|[1-9]\d?)\.{_OCTET}\.{_OCTET}\.{_OCTET}", re.ASCII)
"""A canonical unicast address. Nearly all are, and this costs a tenth of what the ipaddress module does. Each octet is
written out: with a repetition it takes half as long again."""
_SPECIAL_IPV4 = ("127.", "169.254.")
"""How canonical addresses of the loopback and the link-local networks begin."""
_ORDINARY_DESTINATION = re.compile(
    f"(?!{'|'.join(map(re.escape, _SPECIAL_IPV4))})(?:{_ORDINARY_IPV4.pattern})", re.ASCII
)
_FAMILIES: dict[str, IPFamily] = {family.value: family for family in IPFamily}
_PROTOCOLS: dict[str | None, Protocol] = {protocol.value: protocol for protocol in Protocol}
_SHOWN = 80


def show(value: object) -> str:
    """A value for a sentence: text in quotes, numbers bare, collections only by their type."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except ValueError:  # an integer beyond CPython's limit of digits
        return "a huge number"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def describe_type(value: object) -> str:
    """The type of a value for a sentence, and nothing of the value, which may be a secret in the wrong place."""
    if isinstance(value, dict | list):
        return show(value)
    if value is None or isinstance(value, bool):
        return show(value)
    return "text" if isinstance(value, str) else "a number"


def parse_ip(text: str) -> IPv4Address | IPv6Address:
    """An IP address as Go reads it, since kube-proxy does.

    Leading zeros in IPv4 are decimal (old objects have them), an IPv4-mapped IPv6 address is IPv4, and
    there are no zones. Raises ValueError.
    """
    if "%" in text:
        raise ValueError(f"{text!r} has a zone")
    address = ip_address(text if is_ipv6(text) else _LEADING_ZEROS.sub("", text))
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def parse_time(text: object) -> datetime | None:
    """A time in RFC 3339, to the microsecond, in UTC; None for anything else."""
    if not isinstance(text, str) or not _TIMESTAMP.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def interned(text: str) -> str:
    """The same object for all equal texts: tens of thousands of endpoints name the same few nodes and Services."""
    return sys.intern(text)


class Checker:
    """Checks the fields of one object. Every sentence begins with `heading`, or what that returns: where the object is
    and its name.

    Checks raise ObjectError. Where a flaw costs only a part of the object, that part is left out and the sentence goes
    to `problems`. Whoever writes manifests has the node's rights, so with `from_manifest` an object may name loopback
    and link-local addresses; and what is legal but has no effect is reported as a mistake.
    """

    def __init__(self, heading: str | Callable[[], str], *, from_manifest: bool = True) -> None:
        self._heading = heading
        self.from_manifest = from_manifest
        self.problems: list[str] = []

    def error(self, path: str, complaint: str) -> ObjectError:
        """An error for the caller to raise, about the field at `path`."""
        heading = self._heading if isinstance(self._heading, str) else self._heading()
        return ObjectError(f"{heading}: {path}: {complaint}")

    def note(self, path: str, complaint: str) -> None:
        """Add a sentence about the field at `path` to the problems."""
        self.problems.append(str(self.error(path, complaint)))

    def attempt(self, check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """The result of `check`; or None where it raises ObjectError, whose sentence is added to the problems."""
        try:
            return check(*args, **kwargs)
        except ObjectError as error:
            self.problems.append(str(error))
            return None

    def present(self, path: str, value: str | None) -> str:
        if not value:
            raise self.error(path, "missing")
        return value

    def choice(self, path: str, value: str, choices: Iterable[str]) -> str:
        if value not in choices:
            raise self.error(path, f"{show(value)} is not one of {', '.join(choices)}")
        return value

    def family(self, path: str, value: str) -> IPFamily:
        return _FAMILIES.get(value) or IPFamily(self.choice(path, value, tuple(IPFamily)))

    def within(self, path: str, value: int, lowest: int, highest: int, noun: str) -> int:
        if not lowest <= value <= highest:
            raise self.error(path, f"{show(value)} is not {noun} ({lowest}..{highest})")
        return value

    def port(self, path: str, value: int | None) -> int:
        if value is None:
            raise self.error(path, "missing")
        return self.within(path, value, 1, 65535, "a port number")

    def protocol(self, path: str, value: str | None) -> Protocol:
        """The protocol, TCP where there is none."""
        return _PROTOCOLS.get(value) or Protocol(self.choice(path, value or "TCP", tuple(Protocol)))

    def label(self, path: str, value: str) -> str:
        """An RFC 1123 label: what namespaces, Services and ports are called."""
        if not _LABEL.fullmatch(value):
            raise self.error(
                path,
                f"{show(value)} is not a name of at most 63 lower-case letters, digits and '-' "
                "that begins and ends with a letter or digit",
            )
        return value

    def namespace(self, value: str | None) -> str:
        """The namespace of an object, ``default`` where it names none."""
        return interned(self.label("metadata.namespace", value or "default"))

    def subdomain(self, path: str, value: str) -> str:
        """An RFC 1123 subdomain: labels joined by dots, what most objects are called."""
        if len(value) > 253 or not _SUBDOMAIN.fullmatch(value):
            raise self.error(
                path,
                f"{show(value)} is not a name of at most 253 lower-case letters, digits, '-' and '.' "
                "whose parts begin and end with a letter or digit",
            )
        return value

    def address(self, path: str, value: str, wanted: str | None = None) -> str:
        """A canonical IP address, of the `wanted` family (``IPv4``, ``IPv6``) if one is given."""
        try:
            address = str(parse_ip(value))
        except ValueError:
            raise self.error(path, f"{show(value)} is not an IP address") from None
        if wanted and family_of(address) != wanted:
            raise self.error(path, f"{show(value)} is not an {wanted} address")
        return address

    def host(self, path: str, value: str, wanted: str | None = None) -> str:
        """A canonical IP address of one host, that is neither unspecified nor multicast."""
        if wanted != "IPv6" and _ORDINARY_IPV4.fullmatch(value):
            return value
        address = self.address(path, value, wanted)
        if (ip := ip_address(address)).is_unspecified or ip.is_multicast:
            raise self.error(path, f"{show(value)} is not the address of a single host")
        return address

    def destination(self, path: str, value: str, wanted: str | None = None) -> str:
        """A canonical IP address of one host to or from which the author of an object may have traffic redirected.

        Only a manifest may name loopback and link-local addresses: a node's own programs listen on its loopback, and
        clouds serve the node's credentials at a link-local address. See the API server's ValidateNonSpecialIP.
        """
        address = self.host(path, value, wanted)
        if self.from_manifest or not (is_ipv6(address) or address.startswith(_SPECIAL_IPV4)):
            return address
        ip = ip_address(address)
        if ip.is_loopback or ip.is_link_local:
            kind = "loopback" if ip.is_loopback else "link-local"
            raise self.error(path, f"{show(value)} is a {kind} address, which only a manifest may name")
        return address

    @property
    def is_plain_destination(self) -> Callable[[str], object]:
        """Something true for a text that is an IPv4 address which :meth:`destination` returns as it is.

        What it gives nothing for may be one, too. It is a function of the library, to be called for each endpoint.
        """
        return (_ORDINARY_IPV4 if self.from_manifest else _ORDINARY_DESTINATION).fullmatch

    def network(self, path: str, value: str) -> str:
        """A canonical CIDR; bits beyond the prefix are dropped and leading zeros are decimal, as for Go."""
        try:
            if not _CIDR.fullmatch(value):  # Python would read a netmask or a zone, too
                raise ValueError(value)
            return str(ip_network(value if is_ipv6(value) else _LEADING_ZEROS.sub("", value), strict=False))
        except ValueError:
            raise self.error(path, f"{show(value)} is not a network such as 10.244.0.0/24") from None

    def timestamp(self, path: str, value: str | None) -> str:
        """RFC 3339 in UTC and whole seconds, so that text sorts by time; empty where there is none."""
        if not value:
            return ""
        time = parse_time(value)
        if time is None:
            raise self.error(path, f"{show(value)} is not a time such as 2026-01-31T12:00:00Z")
        return time.replace(microsecond=0).isoformat().replace("+00:00", "Z")

    def unique(self, path: str, values: Iterable[str], leaf: str, noun: str) -> None:
        """Raises ObjectError where a value is there twice in the list at `path`; `leaf` is the field of its entries."""
        seen: dict[str, int] = {}
        for index, value in enumerate(values):
            first = seen.setdefault(value, index)
            if first != index:
                raise self.error(f"{path}[{index}].{leaf}", f"{show(value)} is also the {noun} of {path}[{first}]")
