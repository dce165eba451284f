"""Programs that the demo and the tests start: which are missing, and which Debian packages have them."""

import os
import shutil
from collections.abc import Iterable, Mapping
from typing import Final

from userproxy.errors import UserproxyError

PACKAGES: Final[Mapping[str, str]] = {
    "dig": "bind9-dnsutils",
    "dnsmasq": "dnsmasq-base",
    "haproxy": "haproxy",
    "ip": "iproute2",
    "iperf3": "iperf3",
    **{
        f"{stem}{variant}{suffix}": "iptables"
        for stem in ("iptables", "ip6tables")
        for variant in ("", "-legacy", "-nft")
        for suffix in ("", "-save", "-restore")
    },
    "nft": "nftables",
    "nginx": "nginx-light",
    "setpriv": "util-linux",
    "ss": "iproute2",
    "sysctl": "procps",
    "tshark": "tshark",
    "unshare": "util-linux",
}
"""The package of each program, by Debian's and Ubuntu's names."""


class ToolMissingError(UserproxyError):
    """A program is not installed; the text names it, and how to install it."""


def tool_environment() -> dict[str, str]:
    """The environment with /usr/sbin and /sbin in PATH: an ordinary user's lacks them, and ip lives there."""
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return {**os.environ, "PATH": os.pathsep.join(dict.fromkeys([*path, "/usr/sbin", "/sbin"]))}


def missing_tools(tools: Iterable[str], path: str | None = None) -> list[str]:
    """Those of `tools`, names or paths, that cannot be started, looked for along `path` or :func:`tool_environment`."""
    path = tool_environment()["PATH"] if path is None else path
    return [tool for tool in tools if shutil.which(tool, path=path) is None]


def packages_of(tools: Iterable[str]) -> str:
    """The packages of `tools` as ``apt install`` takes them, each once; empty where none is known."""
    return " ".join(dict.fromkeys(PACKAGES[tool] for tool in tools if tool in PACKAGES))


def require_tool(tool: str, path: str | None = None) -> None:
    """Raise ToolMissingError where `tool` cannot be started."""
    if missing_tools([tool], path):
        package = packages_of([tool])
        cure = f": apt install {package} (or, in a checkout, make packages)" if package else ""
        raise ToolMissingError(f"{tool} is missing{cure}")
