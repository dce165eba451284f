"""The names of chains of nf_tables, among which are those that iptables' nft variant makes.

Layout and numbers: linux/netfilter/nf_tables.h.
"""

import errno
from contextlib import closing
from typing import Final

from userproxy.addresses import IPFamily
from userproxy.portals import netlink
from userproxy.portals.netlink.transactions import NFTABLES

_GET_CHAINS: Final = NFTABLES | 4  # NFT_MSG_GETCHAIN
_NAME: Final = 3  # NFTA_CHAIN_NAME
_NOT_HERE: Final = {errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EINVAL}
"""What a kernel without nf_tables answers."""


def chain_names(family: IPFamily) -> frozenset[str]:
    """The names of all chains of one family; none where the kernel has no nf_tables. Blocking. Raises OSError."""
    try:
        with closing(netlink.netlink_socket(netlink.NETFILTER)) as asking:
            return frozenset(
                netlink.text_at(data, begin, end)
                for data, bodies in netlink.dump(asking, _GET_CHAINS, netlink.netfilter_header(family))
                for place in bodies
                for begin, end in [netlink.attributes(data, place[0] + netlink.NETFILTER_HEADER_SIZE, place[1])[_NAME]]
            )
    except OSError as error:
        if error.errno in _NOT_HERE:
            return frozenset()
        raise
