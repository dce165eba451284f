"""A kernel that lacks a part of netfilter, for programs that are started with this folder on PYTHONPATH.

The variable NETFILTER_LACKS says which: ``nft_socket`` and ``xt_socket`` are these modules, ``bridge`` tables of
bridges, those of ebtables, too. Requests with these are answered as such a kernel answers them, and have no effect.
"""

import errno
import os
from collections.abc import Sequence
from typing import Any

from userproxy.errors import KernelToolError
from userproxy.portals.nftables.kernel import Kernel
from userproxy.portals.nftables.messages import Message
from userproxy.portals.return_path.xtables import BridgeRules, XtablesRules

_LACKING = frozenset(os.environ.get("NETFILTER_LACKS", "").split(","))
_BRIDGE = b"\x07"  # NFPROTO_BRIDGE, at the beginning of struct nfgenmsg
_send = Kernel.send


def _refused(message: Message) -> int:
    if "nft_socket" in _LACKING and b"socket\0" in message.body:
        return errno.ENOENT
    return errno.EOPNOTSUPP if "bridge" in _LACKING and message.body.startswith(_BRIDGE) else 0


def _send_what_is_there(self: Kernel, messages: Sequence[Message], *more: Any, **options: Any) -> Any:
    codes = [(number, code) for number, message in enumerate(messages, 1) if (code := _refused(message))]
    return codes or _send(self, messages, *more, **options)


Kernel.send = _send_what_is_there  # type: ignore[method-assign]


def _lacks_it(*_arguments: Any) -> Any:
    raise KernelToolError("the kernel lacks the table or the match")


for name, kind in (("xt_socket", XtablesRules), ("bridge", BridgeRules)):
    if name in _LACKING:
        setattr(kind, "write", _lacks_it)  # noqa: B010 -- of either type
