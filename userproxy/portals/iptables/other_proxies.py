"""Notices the rules of a kube-proxy, of one that runs or of one that is long gone.

The kernel asks the NAT hooks one after the other, and the first one that translates a connection has it. So what
stands before ours wins, and what another proxy forgot goes on sending clients to endpoints that may be gone.
"""

import errno
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Final

import structlog

from userproxy.errors import KernelToolError
from userproxy.model import IPFamily
from userproxy.portals import netlink
from userproxy.portals.iptables.chains import NAT
from userproxy.portals.iptables.changes import KUBE_SERVICES
from userproxy.portals.iptables.variant import Tools, Variant, installed, legacy_tables
from userproxy.portals.programs import save

log = structlog.get_logger()

_CHAINS: Final = (KUBE_SERVICES, "KUBE-NODEPORTS")
_NFT_TABLE: Final = "kube-proxy"

_GET_TABLE: Final = 0xA01  # NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE, linux/netfilter/nf_tables.h
_GET_CHAIN: Final = 0xA04
_TABLE_NAME: Final = 1
_CHAIN_TABLE: Final = 1
_CHAIN_NAME: Final = 3


class OtherProxies:
    """Says once that there are another proxy's rules of one family, and once that they are gone."""

    def __init__(self, family: IPFamily) -> None:
        self._family = family
        self._looked = False
        self._told: list[str] = []

    def look(self, *, again: bool) -> None:
        """Look for them in both variants of iptables and in nftables, if that is the first time or is to be `again`.

        Blocking; creates no table.
        """
        if self._looked and not again:
            return
        self._looked = True
        try:
            found = list(rules_of_others(self._family))
        except (KernelToolError, OSError) as error:
            log.debug("Whether there are rules of kube-proxy cannot be seen", v=2, reason=str(error))
            return
        if found and found != self._told:
            log.warning(
                "There are rules of kube-proxy, which may lead clients past userproxy:"
                " if it is not to serve this node, stop it and run `kube-proxy --cleanup`",
                family=self._family.value,
                found=found,
            )
        elif self._told and not found:
            log.info("The rules of kube-proxy are gone", family=self._family.value)
        self._told = found


def rules_of_others(family: IPFamily) -> Iterator[str]:
    """Each chain or table of a kube-proxy. Blocking; creates no table. Raises KernelToolError and OSError."""
    legacy = NAT in legacy_tables(family) and _of_variant(family, Variant.LEGACY)
    text = f"\n{save(legacy.save, NAT)}" if legacy else ""
    yield from (f"iptables-legacy: chain {chain}" for chain in _CHAINS if f"\n:{chain} " in text)
    ip = netlink.netfilter_header(family)
    with closing(netlink.netlink_socket(netlink.NETFILTER)) as asking:
        for chain in _CHAINS:
            named = netlink.text_attribute(_CHAIN_TABLE, NAT) + netlink.text_attribute(_CHAIN_NAME, chain)
            if _exists(asking, _GET_CHAIN, ip + named):
                yield f"iptables-nft: chain {chain}"
        if _exists(asking, _GET_TABLE, ip + netlink.text_attribute(_TABLE_NAME, _NFT_TABLE)):
            yield f"nftables: table {_NFT_TABLE}"


def _of_variant(family: IPFamily, variant: Variant) -> Tools | None:
    return next((tools for tools in installed(family) if tools.variant is variant), None)


def _exists(asking: socket.socket, kind: int, request: bytes) -> bool:
    try:
        netlink.get(asking, kind, request)
    except OSError as error:
        if error.errno in (
            errno.ENOENT,
            errno.EINVAL,
            errno.EOPNOTSUPP,
        ):  # the latter two from a kernel without nf_tables
            return False
        raise
    return True
