"""What the commands that ask a running proxy have in common: their options, and which Service is meant."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import click

from userproxy.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

STATES: Final = ("dialing", "held", "open", "half-closed", "draining")
VERDICTS: Final = ("served", "retried", "refused", "dropped", "reset", "timed-out")
PROTOCOLS: Final = ("TCP", "UDP")


class Subject(NamedTuple):
    """The Services that are meant: those of a namespace, one of them, or all."""

    namespace: str = ""
    service: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.service}"


def admin_socket(command: F) -> F:
    """Add ``--admin-socket``, as `socket`."""
    return click.option(
        "--admin-socket",
        "socket",
        metavar="PATH",
        help="Where the running userproxy is asked.  [default: /run/userproxy/admin.sock for root, else"
        " $XDG_RUNTIME_DIR/userproxy/admin.sock]",
    )(command)


def namespaces(command: F) -> F:
    """Add ``-n`` and ``-A``, as `namespace` and `all_namespaces`."""
    command = click.option("-A", "--all-namespaces", is_flag=True, help="Those of all namespaces: the default.")(
        command
    )
    return click.option(
        "-n", "--namespace", metavar="NS", help="Only Services of this namespace. Without it all are meant."
    )(command)


def subject(target: str | None, namespace: str | None = None, *, all_namespaces: bool = False) -> Subject:
    """What `target`, ``NS/NAME`` or with a `namespace` just ``NAME``, and the options say. Raises UsageError."""
    namespace = "" if all_namespaces else namespace or ""
    if target is None:
        return Subject(namespace)
    given, slash, name = target.rpartition("/")
    if not name or (slash and not given) or "/" in given or ":" in target:
        raise UsageError(f"{target!r} is not the name of a Service: write NS/NAME, for example default/web")
    if not given and not namespace:
        raise UsageError(f"say which namespace the Service is in: NS/{name}, or {name} -n NS")
    if given and namespace and given != namespace:
        raise UsageError(f"-n {namespace}: {target!r} is in another namespace")
    return Subject(given or namespace, name)


def selectors(text: str | None, known: Collection[str]) -> dict[str, str]:
    """What ``-l KEY=VALUE,...`` says. Raises UsageError where a key is none of the `known` ones, or a value bad."""
    found: dict[str, str] = {}
    for part in (text or "").split(","):
        key, sign, value = (each.strip() for each in part.partition("="))
        if not key and not sign:
            continue
        if not sign or not value or key not in known:
            raise UsageError(f"-l: {part.strip()!r} is not KEY=VALUE with one of the keys {', '.join(sorted(known))}")
        found[key] = _CHECKS[key](value, f"-l: {key}")
    return found


def ip_address(text: str, option: str) -> str:
    """An IP address. Raises UsageError."""
    import ipaddress

    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        raise UsageError(f"{option}: {text!r} is not an IP address") from None


def endpoint(text: str, option: str) -> str:
    """An endpoint, ``IP:PORT``, or ``IP`` for all its ports. Raises UsageError."""
    ip, colon, port = text.rpartition(":")
    if not colon or (":" in ip and not ip.startswith("[")):
        return ip_address(text, option)
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise UsageError(f"{option}: {text!r} is not an endpoint such as 10.0.0.1:80, [fd00::1]:80 or 10.0.0.1")
    address = ip_address(ip, option)
    return f"[{address}]:{int(port)}" if ":" in address else f"{address}:{int(port)}"


def _connection(text: str, option: str) -> str:
    if not (text.isascii() and text.isdecimal() and len(text) <= 18 and int(text) > 0):
        raise UsageError(f"{option}: {text!r} is not the number of a connection: `userproxy get connections` has them")
    return str(int(text))


def _state(text: str, option: str) -> str:
    return _one_of(text.lower(), STATES, option)


def _protocol(text: str, option: str) -> str:
    return _one_of(text.upper(), PROTOCOLS, option)


def _one_of(text: str, choices: Collection[str], option: str) -> str:
    if text not in choices:
        raise UsageError(f"{option}: {text!r} is not one of {', '.join(choices)}")
    return text


_CHECKS: Final[Mapping[str, Callable[[str, str], str]]] = {
    "client": ip_address,
    "endpoint": endpoint,
    "id": _connection,
    "protocol": _protocol,
    "state": _state,
}
